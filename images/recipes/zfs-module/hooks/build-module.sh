#!/bin/sh
# Compiles ZFS for the one kernel of this tree and leaves only the modules, with the kernel's module index brought up to
# date. The tree is unpacked, not configured: what maintainer scripts would have linked is linked here.
set -eu
root=$1

cat >"$root/build-module" <<'EOF'
#!/bin/sh
set -eu
export PATH=/usr/sbin:/usr/bin LC_ALL=C HOME=/tmp
# What the alternatives system does on an installed system.
ln -sf gcc-14 /usr/bin/gcc
ln -sf gcc-14 /usr/bin/cc
ln -sf mawk /usr/bin/awk

kernel=$(cd /usr/lib/modules && ls)
cd /usr/src/zfs-*
# Debug information is not shipped, so it is not generated: a quarter of the compiler's time. Without it there is no BTF
# either, and Kbuild leaves that step out where it finds no vmlinux.
export KCFLAGS=-g0
rm -f "/usr/lib/modules/$kernel/build/vmlinux"
./configure --quiet --disable-dependency-tracking --prefix=/usr --with-config=kernel \
    --with-linux="/usr/lib/modules/$kernel/source" --with-linux-obj="/usr/lib/modules/$kernel/build"
make --silent --jobs="$(nproc)" --directory=module

# The places where a tracer could hook in: at each load, the kernel searches the whole symbol table for each of these 5,000,
# which is two of the four seconds that loading ZFS takes under emulation. The compiler left no-ops there.
for module in module/spl.ko module/zfs.ko; do
    objcopy --remove-section=__mcount_loc --remove-section=.rela__mcount_loc "$module"
done

install -D --mode=0644 --target-directory="/usr/lib/modules/$kernel/extra" module/spl.ko module/zfs.ko
depmod "$kernel"
EOF
chroot "$root" /bin/sh /build-module

# All that leaves this tree: the two modules and the index of all modules.
kernel=$(cd "$root/usr/lib/modules" && ls)
mkdir "$root/out"
(cd "$root" && tar --create --sort=name --owner=0 --group=0 --numeric-owner --file=- \
    "usr/lib/modules/$kernel/extra" "usr/lib/modules/$kernel"/modules.*) >"$root/out/zfs-module.tar"
