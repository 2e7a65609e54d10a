#!/usr/bin/env bash
# Starts a real Slurm on this machine alone: munge, a controller and one node, all on loopback.
#
#     apt-get install slurm-wlm munge              # once, Debian or Ubuntu, as root
#     tests/integration/slurm/start.sh             # as root; a second time: looks whether it runs, repairs what does not
#     pytest -n 0 -m slurm
#     tests/integration/slurm/stop.sh              # ends the daemons and removes what this wrote
#
# Exit codes: 0 jobs run; 1 something did not start (its log's last lines are shown); 2 packages or root are missing;
# 3 this machine has a Slurm of its own, which is left alone.
#
# It writes the default /etc/slurm/slurm.conf, because a SLURM_CONF of one's own does not reach the srun inside the jobs of
# Snakemake's plugin. The node claims more CPUs, memory and GPUs than the machine has (SlurmdParameters=config_overrides):
# so the profile that is shipped is what runs here, with all it asks for. Its two GPUs are /dev/null and /dev/zero; no
# more than two jobs with a GPU run at once. There is no accounting, as on many small clusters.
set -euo pipefail

mark='# written by tests/integration/slurm/start.sh of nnunet-attn'
etc=/etc/slurm
state=/var/lib/nnunet-attn-slurm
log=/var/log/nnunet-attn-slurm

fail() { local code=$1; shift; echo "start.sh: $*" >&2; exit "$code"; }

# until SECONDS WHAT COMMAND...: tries once a second, no longer than that
until_true() {
    local limit=$1 what=$2; shift 2
    for _ in $(seq "$limit"); do
        if timeout 10 "$@" > /dev/null 2>&1; then return 0; fi
        sleep 1
    done
    for file in "$log"/*.log; do [ -f "$file" ] && { echo "== $file" >&2; tail -n 15 "$file" >&2; }; done
    fail 1 "$what within $limit s"
}

[ "$(id -u)" = 0 ] || fail 2 "run this as root: the daemons of Slurm need it"
for program in munged munge slurmctld slurmd sbatch srun sinfo; do
    command -v "$program" > /dev/null || fail 2 "there is no $program; install it with: apt-get install slurm-wlm munge"
done
for file in slurm.conf gres.conf cgroup.conf; do
    if [ -e "$etc/$file" ] && ! grep -qxF "$mark" "$etc/$file"; then
        fail 3 "$etc/$file is not of this script: this machine has a Slurm of its own, which is left alone"
    fi
done

node=$(uname -n | cut -d. -f1) # hostname -s fails where the name does not resolve
install -d -m 755 "$etc" "$log" "$state" "$state/node" "$state/controller"

# munge signs what the daemons say to each other; a key that is there already is used
install -d -m 755 -o munge -g munge /run/munge
install -d -m 700 -o munge -g munge /etc/munge /var/lib/munge /var/log/munge
if [ ! -s /etc/munge/munge.key ]; then
    (umask 077; head -c 1024 /dev/urandom > /etc/munge/munge.key)
    chown munge:munge /etc/munge/munge.key
fi
if ! munge -n > /dev/null 2>&1; then
    setpriv --reuid munge --regid munge --clear-groups munged --force > "$log/munged.log" 2>&1 \
        || { cat "$log/munged.log" >&2; fail 1 "munged did not start"; }
fi
until_true 10 "munge does not answer" munge -n

cat > "$etc/slurm.conf" <<CONF
$mark
ClusterName=loopback
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a requeued job waits as long as credentials last, by default 120 s
AuthInfo=cred_expire=10
StateSaveLocation=$state/controller
SlurmdSpoolDir=$state/node
SlurmctldPidFile=/run/nnunet-attn-slurmctld.pid
SlurmdPidFile=/run/nnunet-attn-slurmd.pid
SlurmctldLogFile=$log/slurmctld.log
SlurmdLogFile=$log/slurmd.log
# no accounting: squeue is all that tells how a job ended, for MinJobAge seconds
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MinJobAge=3600
# containers and small machines may have no cgroups
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobRequeue=1
KillWait=10
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
GresTypes=gpu
NodeName=$node NodeAddr=127.0.0.1 CPUs=64 RealMemory=256000 Gres=gpu:2 State=UNKNOWN
PartitionName=gpu Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONF
printf '%s\nName=gpu File=/dev/null\nName=gpu File=/dev/zero\n' "$mark" > "$etc/gres.conf"
printf '%s\nCgroupPlugin=cgroup/v1\n' "$mark" > "$etc/cgroup.conf"

if ! timeout 10 scontrol ping 2> /dev/null | grep -q "is UP"; then
    slurmctld || fail 1 "slurmctld did not start; see $log/slurmctld.log"
fi
until_true 30 "the controller does not answer" sh -c 'scontrol ping | grep -q "is UP"'
if ! { [ -s /run/nnunet-attn-slurmd.pid ] && kill -0 "$(cat /run/nnunet-attn-slurmd.pid)" 2> /dev/null; }; then
    slurmd || fail 1 "slurmd did not start; see $log/slurmd.log"
fi
until_true 60 "the node is not ready" sh -c 'sinfo -h -o %T | grep -qE "^(idle|mixed|allocated)$"'
until_true 30 "no job ran" srun --immediate=8 --mem 100 hostname
echo "Slurm runs on $node: $(sinfo -h -o '%P %D node, %c CPUs, %m MB, %G, %T')"
