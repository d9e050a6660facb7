#!/bin/bash
# What tools/vm.sh has the virtual machine do: say what it is, run the host tests, the daemon's under each cgroup driver, tell the result.
cd /opt/ocid || exit 1
. .vm/settings
mapfile -t arguments < <(xargs -n 1 printf '%s\n' <.vm/arguments)

echo "Linux $(uname -r), systemd $(systemctl --version | awk 'NR == 1 { print $2 }'), cgroups: $(stat -fc %T /sys/fs/cgroup), AppArmor profiles: $(wc -l </sys/kernel/security/apparmor/profiles)"
ip link set lo up
modprobe -a overlay bridge veth nf_tables br_netfilter 2>/dev/null
export OCID_KILLS=4 # of what is random, a smaller sample: each life of a daemon takes half a minute here
export PATH=$PATH:/usr/sbin:/sbin PYTHONPYCACHEPREFIX=/opt/ocid/.venv/cache/python HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis
failed=0
only=() # of the drivers after the first, only what a driver makes different
for driver in $drivers; do
    echo "--- cgroup driver: $driver ${only[*]}"
    OCID_TEST_CGROUP_DRIVER=$driver OCID_TEST_SLOW=$slow .venv/bin/python -m pytest -p no:cacheprovider --color=no --timeout $((120 * slow)) "${only[@]}" "${arguments[@]}" || failed=$?
    only=(-m daemon)
done
echo "@@ocid-vm-exit $failed"
sync
