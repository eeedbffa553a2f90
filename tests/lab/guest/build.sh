#!/bin/bash
# Makes the guests' kernel, initramfs and root file system in the directory $1, with the init
# program $2. Debian trixie, from the mirror that this machine's apt uses. Needs root.
set -euo pipefail
cd "$1"
mkdir -p lists/partial
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 '/debian/$')
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" > trixie.list
apt=(-oDir::Etc::SourceList="$PWD/trixie.list" -oDir::Etc::SourceParts=/dev/null -oDir::State::Lists="$PWD/lists" -oAPT::Sandbox::User=root)
apt-get "${apt[@]}" -qq update
image=$(apt-cache "${apt[@]}" depends linux-image-amd64 | awk '/Depends: linux-image/{print $2}')
apt-get "${apt[@]}" -qq download "$image"
mkdir kernel rootfs
dpkg -x "$image"_*.deb kernel
version=$(ls kernel/boot | sed -n 's/^vmlinuz-//p')
cp "kernel/boot/vmlinuz-$version" vmlinuz
packages=rdma-core,ibverbs-providers,ibverbs-utils,rdmacm-utils,perftest,iproute2,kmod,procps,socat,util-linux,mount,fuse3,iputils-ping,systemd,runc,nbd-server,nbd-client,redis-server
mmdebstrap --quiet --variant=minbase --include="$packages" trixie - "$mirror" | tar -C rootfs -xf -
cp -r kernel/usr/lib/modules rootfs/usr/lib/
chroot rootfs depmod "$version"
install -m 755 "$2" rootfs/sbin/labinit
mkdir -p rootfs/lab early/{bin,proc,sys,dev,mod,newroot}
cp /bin/busybox early/bin/
for module in virtio_blk ext4; do
    chroot rootfs modprobe -D -S "$version" "$module"
done | grep -oE '/[^ ]*\.ko[.a-z]*' | awk '!seen[$0]++' | while read -r file; do
    cp "rootfs/usr$file" early/mod/ 2>/dev/null || cp "rootfs$file" early/mod/
    basename "$file" .xz >> early/mod/order
done
unxz early/mod/*.xz
cat > early/init <<'I'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc
for module in $(cat /mod/order); do insmod /mod/$module; done
tries=0; while [ ! -b /dev/vda ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries+1)); done
mount -t ext4 -o rw,noatime /dev/vda /newroot
exec switch_root /newroot /sbin/labinit
I
chmod +x early/init
(cd early; find . | cpio --quiet -o -H newc | gzip -1) > initrd.gz
truncate -s 2G root.ext4
mke2fs -q -F -d rootfs -t ext4 root.ext4
rm -rf kernel rootfs early lists trixie.list ./*.deb
