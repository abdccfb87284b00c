#!/bin/sh
# grub-install copies these beside grub.cfg; the disk is made without it, since it needs a block device.
set -eu
mkdir -p "$1/boot/grub/i386-pc"
cp "$1"/usr/lib/grub/i386-pc/*.mod "$1"/usr/lib/grub/i386-pc/*.lst "$1/boot/grub/i386-pc/"
