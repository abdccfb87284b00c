#!/bin/sh
# The kernel's packages alone: what they depend on, Debian has.
set -eu
cd "$1/var/cache/apt/archives"
tar --create --sort=name --owner=0 --group=0 --numeric-owner --file="$1/packages.tar" linux-image-*.deb linux-modules-*.deb
