#!/bin/bash
# usage: sudo tools/test vm [PYTEST ARGUMENTS]
#
# Runs the host tests in a virtual machine that most nodes resemble: Debian 13 with systemd, cgroup v2 and AppArmor; all of
# them under the systemd driver, and those that run a daemon under the cgroupfs driver, too. The disk is made once, from
# the distribution's packages, and kept in build/vm; the machine runs in QEMU under software emulation (KVM is used where
# /dev/kvm works), without a network, and nothing that it does outlives it.
# Environment: OCID_VM_DRIVERS="systemd cgroupfs", OCID_VM_MIRROR, OCID_VM_MEMORY (MiB), OCID_VM_TIMEOUT (4h),
# OCID_VM_SLOW (10: how many times slower than a common machine it is).
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. tools/common.sh
[ "$(id -u)" = 0 ] || fail "The virtual machine's disk can only be made by root."

suite=trixie
packages=(linux-image-cloud-amd64 systemd systemd-sysv dbus udev kmod apparmor e2fsprogs iptables runc crun conmon catatonit nftables busybox-static
    iproute2 procps attr docker-registry containernetworking-plugins python3 python3-venv git ca-certificates)
[ "$(uname -m)" = x86_64 ] || fail "The virtual machine is known to be made on x86_64 only; this is $(uname -m)."
need qemu-system-x86_64:qemu-system-x86 debootstrap:debootstrap mke2fs:e2fsprogs

work=

cleanup() {
    [ -z "$work" ] || rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

sources() { git -c safe.directory="$PWD" ls-files -z --cached --others --exclude-standard; }

# chrooted COMMAND… runs a command in the disk to be, with what this machine knows of networks, certificates and pip.
chrooted() {
    local names
    mapfile -t names < <(compgen -e | grep -E '^(PIP_|https?_proxy|no_proxy)')
    local given=() name
    for name in "${names[@]}"; do given+=("$name=${!name}"); done
    unshare --mount --pid --fork --mount-proc="$work/root/proc" --propagation private chroot "$work/root" \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive "${given[@]}" "$@"
}

make_disk() {
    say "Making the disk of the virtual machine (once; it is kept in build/vm)"
    mkdir -p build/vm
    work=$(mktemp -d "$PWD/build/vm/work.XXXXXX")
    local root=$work/root include
    include=$(IFS=,; echo "${packages[*]}")
    debootstrap --variant=minbase --include="$include" $suite "$root" "${OCID_VM_MIRROR:-http://deb.debian.org/debian}" >"$work/log" 2>&1 ||
        { tail -n 20 "$work/log" >&2; fail "debootstrap failed"; }
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    [ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/pip.conf"
    mkdir "$root/opt/ocid"
    sources | xargs -0 tar -c | tar -x -C "$root/opt/ocid"
    chrooted bash -euc 'cd /opt/ocid && . tools/common.sh && python_packages test' >>"$work/log" 2>&1 ||
        { tail -n 20 "$work/log" >&2; fail "the Python packages could not be installed"; }
    rm -rf "$root/var/cache/apt" "$root/var/lib/apt/lists" "$root/etc/pip.conf"
    echo 'nameserver 127.0.0.1' >"$root/etc/resolv.conf"
    cat >"$root/etc/systemd/system/ocid-tests.service" <<'EOF'
[Unit]
Description=The tests of ocid, and then the end
After=multi-user.target apparmor.service
FailureAction=poweroff-force
SuccessAction=poweroff-force

[Service]
Type=oneshot
TimeoutStartSec=infinity
Delegate=yes
TasksMax=infinity
StandardOutput=file:/dev/virtio-ports/ocid.tests
StandardError=inherit
ExecStart=/bin/bash -c 'tar -x -C /opt/ocid --no-same-owner </dev/vdb && exec /bin/bash /opt/ocid/tools/vm-guest.sh'
EOF
    mkdir -p "$root/etc/systemd/system/graphical.target.wants"
    ln -s ../ocid-tests.service "$root/etc/systemd/system/graphical.target.wants/"
    ln -sf /dev/null "$root/etc/systemd/system/docker-registry.service"
    ln -sf /dev/null "$root/etc/systemd/system/systemd-networkd-wait-online.service"
    echo ocid-vm >"$root/etc/hostname"
    echo '127.0.0.1 localhost ocid-vm' >"$root/etc/hosts"
    echo '/dev/vda / ext4 rw,noatime 0 1' >"$root/etc/fstab"
    mkdir "$work/done"
    cp "$root"/boot/vmlinuz-* "$work/done/vmlinuz"
    cp "$root"/boot/initrd.img-* "$work/done/initrd"
    mke2fs -q -t ext4 -d "$root" -E root_owner=0:0 "$work/done/disk" 6G
    rm -rf "$cache" && mv "$work/done" "$cache"
    cleanup
    work=
    find build/vm -mindepth 1 -maxdepth 1 ! -name "$key" -exec rm -rf {} + # disks of other days
}

key=$(cat pyproject.toml <(declare -p packages suite) <(declare -f make_disk) | sha256sum | cut -c1-16)
cache=build/vm/$key
[ -e "$cache/disk" ] || make_disk

work=$(mktemp -d)
[ $# -gt 0 ] || set -- tests/host
printf '%q\n' "$@" >"$work/arguments"
printf 'drivers=%q\nslow=%q\n' "${OCID_VM_DRIVERS:-systemd cgroupfs}" "${OCID_VM_SLOW:-10}" >"$work/settings"
sources | xargs -0 tar -c -f "$work/tree.tar"
tar -r -f "$work/tree.tar" -C "$work" --transform 's,^,.vm/,' arguments settings
accel=(-accel tcg,thread=multi -cpu max)
[ ! -w /dev/kvm ] || ! timeout 20 qemu-system-x86_64 -accel kvm -cpu host -M none -display none -monitor none -serial none -S -daemonize \
    -pidfile "$work/kvm" 2>/dev/null || { kill "$(cat "$work/kvm")"; accel=(-accel kvm -cpu host); }
say "Starting the virtual machine (${accel[1]%%,*}); its console goes to build/vm/console"
rc=1
while IFS= read -r line; do
    case $line in
    "@@ocid-vm-exit "*) rc=${line#* } ;;
    *) printf '%s\n' "$line" ;;
    esac
done < <(timeout "${OCID_VM_TIMEOUT:-4h}" qemu-system-x86_64 "${accel[@]}" -M q35 -m "${OCID_VM_MEMORY:-3072}" -smp 2 -nographic -no-reboot -nic none \
    -kernel "$cache/vmlinuz" -initrd "$cache/initrd" \
    -append "root=/dev/vda rw console=ttyS0 quiet apparmor=1 security=apparmor systemd.show_status=no" \
    -drive "file=$cache/disk,format=raw,if=virtio,snapshot=on" -drive "file=$work/tree.tar,format=raw,if=virtio,readonly=on" \
    -device virtio-serial -chardev file,id=tests,path=/dev/stdout -device virtserialport,chardev=tests,name=ocid.tests \
    -serial "file:build/vm/console" -monitor none </dev/null)
[ "$rc" = 0 ] || fail "
FAILED in the virtual machine (exit code $rc)"
say "All passed in the virtual machine"
