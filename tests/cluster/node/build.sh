#!/bin/bash
# Makes what nodes boot: vmlinuz, initrd.gz and root.ext4 in the directory $1, of the recipe in
# $1/recipe and the programs in the directory $2. Debian trixie, from the mirror that this
# machine's apt uses. Needs root.
set -euo pipefail
cd "$1"
recipe=$PWD/recipe programs=$2

mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 '/debian/$')
mkdir -p apt/lists/partial
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" > apt/sources.list
apt=(-oDir::Etc::SourceList="$PWD/apt/sources.list" -oDir::Etc::SourceParts=/dev/null
    -oDir::State::Lists="$PWD/apt/lists" -oAPT::Sandbox::User=root)
apt-get "${apt[@]}" -qq update
kernel=$(apt-cache "${apt[@]}" depends linux-image-amd64 | awk '/Depends: linux-image/{print $2}')
apt-get "${apt[@]}" -qq download "$kernel"
mkdir kernel root
dpkg -x "$kernel"_*.deb kernel
version=$(basename kernel/boot/vmlinuz-*)
version=${version#vmlinuz-}
cp "kernel/boot/vmlinuz-$version" vmlinuz

packages=(systemd systemd-sysv udev dbus runc containernetworking-plugins iptables nftables conntrack
    iproute2 kmod procps util-linux mount fuse3 iputils-ping ca-certificates
    rdma-core ibverbs-providers ibverbs-utils rdmacm-utils)
include=$(IFS=,; echo "${packages[*]}")
mmdebstrap --quiet --variant=minbase --include="$include" trixie - "$mirror" | tar -C root -xf -
cp -r kernel/usr/lib/modules root/usr/lib/
chroot root depmod "$version"

install -m 755 "$programs"/{kubelet,kube-proxy,containerd,containerd-shim-runc-v2,ctr} root/usr/local/bin/
install -m 755 "$recipe/node-network" root/usr/local/sbin/
install -D -m 644 "$recipe/containerd.toml" root/etc/containerd/config.toml
install -D -m 644 "$recipe/kubelet.yaml" root/etc/kubernetes/kubelet.yaml
mkdir -p root/cluster root/var/lib/containerd root/etc/cni/net.d root/opt/cni
ln -s /usr/lib/cni root/opt/cni/bin
units=root/etc/systemd/system
for unit in node-network containerd kubelet kube-proxy; do
    install -m 644 "$recipe/$unit.service" "$units/"
    ln -s "../$unit.service" "$units/multi-user.target.wants/$unit.service"
done
# Nobody logs in at a console, and nothing is upgraded.
for unit in getty@.service serial-getty@.service apt-daily.timer apt-daily-upgrade.timer fstrim.timer e2scrub_reap.service; do
    ln -sf /dev/null "$units/$unit"
done
: > root/etc/fstab
: > root/etc/machine-id

# The image of every pod's first container, which does nothing; it serves as a small shell, too.
mkdir -p image/layer/{bin,tmp}
chmod 1777 image/layer/tmp
cp /bin/busybox image/layer/bin/
for name in $(busybox --list | grep -vx busybox); do
    ln -s busybox "image/layer/bin/$name"
done
tar -C image/layer --owner=0 --group=0 --numeric-owner -cf image/layer.tar .
digest=$(sha256sum image/layer.tar | cut -d' ' -f1)
cat > image/config.json <<J
{"architecture": "amd64", "os": "linux",
 "config": {"Cmd": ["/bin/busybox", "sleep", "infinity"], "Env": ["PATH=/bin"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$digest"]}}
J
echo '[{"Config": "config.json", "RepoTags": ["localhost/busybox:1"], "Layers": ["layer.tar"]}]' > image/manifest.json
tar -C image -cf sandbox.tar manifest.json config.json layer.tar

mkdir -p early/{bin,dev,proc,modules,root}
cp /bin/busybox early/bin/
install -m 755 "$recipe/early-init" early/init
chroot root modprobe -D -S "$version" virtio_blk > early/needed
chroot root modprobe -D -S "$version" ext4 >> early/needed
grep -oE '/[^ ]+\.ko[^ ]*' early/needed | awk '!seen[$0]++' | while read -r file; do
    cp "root/usr/${file#/usr/}" early/modules/
    name=$(basename "$file")
    echo "${name%.xz}" >> early/modules/order
done
rm early/needed
unxz early/modules/*.xz
(cd early; find . | cpio --quiet -o -H newc | gzip -1) > initrd.gz

truncate -s 8G root.ext4
mke2fs -q -F -t ext4 -d root root.ext4
rm -rf apt kernel root image early recipe ./*.deb
