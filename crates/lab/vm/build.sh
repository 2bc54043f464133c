#!/bin/bash
# Makes kernel and initramfs of the test client from Debian packages. Nothing is installed on this machine: the
# packages are downloaded and unpacked below the output directory. Usage: build.sh OUTPUT INIT
set -euo pipefail
out=$1 init=$2
work=$out/work
rm -rf "$work"
mkdir -p "$work"/{debs,tree,kernel,root}

kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends:/ { print $2; exit }')
[ -n "$kernel" ] || { echo "no package linux-image-cloud-amd64 is known: run apt-get update" >&2; exit 1; }
packages="busybox-static util-linux cifs-utils keyutils nfs-common rpcbind libc6 libtirpc3 libtirpc-common libmount1 libblkid1
  libuuid1 libselinux1 libpcre2-8-0 libgssapi-krb5-2 libkrb5-3 libk5crypto3 libkrb5support0 libcom-err2 libkeyutils1
  libcap-ng0 libcap2 libwrap0 libnsl2 libsystemd0 libgcrypt20 libgpg-error0 liblzma5 libzstd1 liblz4-1 libnfsidmap1
  libevent-core-2.1-7 libsqlite3-0 libtalloc2 libwbclient0 zlib1g netbase coreutils dash libacl1 libattr1 libgmp10
  libssl3 libmd0"
(cd "$work/debs" && apt-get -q download -o APT::Sandbox::User=root $kernel $packages) >"$work/apt.log" 2>&1 ||
  { cat "$work/apt.log" >&2; exit 1; }
for deb in "$work"/debs/*.deb; do
  case $deb in
  */linux-image-*) dpkg -x "$deb" "$work/kernel" ;;
  *) dpkg -x "$deb" "$work/tree" ;;
  esac
done
cp "$work"/kernel/boot/vmlinuz-* "$out/vmlinuz"
version=$(basename "$work"/kernel/lib/modules/*)
busybox=$work/tree/bin/busybox
root=$work/root
lib=lib/x86_64-linux-gnu

mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,$lib,usr/$lib,lib64,etc,proc,sys,dev,run,tmp,mnt,root,var/lib/nfs}
cp "$busybox" "$root/bin/busybox"
for applet in $("$busybox" --list); do [ "$applet" = busybox ] || ln -sf /bin/busybox "$root/bin/$applet"; done
# Where the kernel itself asks for a module.
ln -sf /bin/busybox "$root/sbin/modprobe"
for f in mount.cifs mount.nfs mount.nfs4 umount.nfs rpc.statd rpcbind; do cp -P "$work/tree/sbin/$f" "$root/sbin/"; done
for f in bin/dash bin/dd bin/cat bin/stat usr/bin/stat usr/bin/cmp usr/bin/timeout usr/bin/flock; do
  if [ -e "$work/tree/$f" ]; then rm -f "$root/bin/$(basename $f)"; cp "$work/tree/$f" "$root/bin/"; fi
done
cp "$work"/tree/etc/{netconfig,protocols,services,rpc} "$root/etc/" 2>/dev/null || true
printf 'root:x:0:0:root:/root:/bin/sh\n_rpc:x:100:65534::/run/rpcbind:/bin/false\nstatd:x:101:65534::/var/lib/nfs:/bin/false\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
printf 'passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\nrpc: files\n' >"$root/etc/nsswitch.conf"
printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
ln -sf /proc/mounts "$root/etc/mtab"
cp "$init" "$root/init"
chmod +x "$root/init"

# Shared libraries: what the programs need, from the unpacked packages.
export LD_LIBRARY_PATH=$work/tree/$lib:$work/tree/usr/$lib
for f in "$root"/sbin/* "$root"/bin/*; do
  if [ -f "$f" ] && [ ! -L "$f" ]; then { ldd "$f" 2>/dev/null || true; } | awk '$3 ~ /^\// { print $3 }'; fi
done | sort -u >"$work/libraries"
while read -r l; do cp -L "$l" "$root/$lib/"; done <"$work/libraries"
for l in libnss_files.so.2 libnss_dns.so.2 libresolv.so.2 libgcc_s.so.1; do
  for d in "$work/tree/$lib" /$lib; do
    if [ -e "$d/$l" ]; then cp -L "$d/$l" "$root/$lib/"; break; fi
  done
done
cp -L "$work/tree/lib64/ld-linux-x86-64.so.2" "$root/lib64/"
unset LD_LIBRARY_PATH

# Kernel modules with what they depend on.
depmod -b "$work/kernel" "$version"
for m in virtio_pci virtio_net virtio_console virtio_rng cifs nfs nfsv3 nfsv4 lockd sunrpc dns_resolver nls_utf8 \
  aes_generic cmac ccm gcm ctr ecb cbc hmac md5 sha512_generic sha256_generic md4 aesni_intel ghash_generic authenc seqiv; do
  modprobe -d "$work/kernel" -S "$version" --show-depends "$m" 2>/dev/null || true
done | awk '$1 == "insmod" { print $2 }' | sort -u | while read -r ko; do
  to=$root/lib/modules/${ko#*/lib/modules/}
  mkdir -p "$(dirname "$to")"
  cp "$ko" "$to"
done
cp "$work/kernel/lib/modules/$version"/modules.{builtin,order} "$root/lib/modules/$version/"
depmod -b "$root" "$version"
(cd "$root" && find . | "$busybox" cpio -o -H newc 2>/dev/null) >"$out/initrd.part"
mv "$out/initrd.part" "$out/initrd"
rm -rf "$work"
