#!/bin/sh
# The exchange between two parties on the embedded model, by the command line alone, in two folders that share nothing
# but the bundles: FOLDER/acme has the model, FOLDER/clinic the data. As root, each party runs as a user of the system
# who cannot read the other's folder. At the end, one process that has everything runs the same settings, and its scores
# are compared.
#
# usage: demo.sh CRASH FOLDER
set -eu
crash=$1 folder=$2
demo=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
mkdir "$folder/acme" "$folder/clinic"
cp -r "$demo/model" "$demo/task" "$demo/parties/owner.toml" "$folder/acme"
cp -r "$demo/task" "$demo/parties/clinic.toml" "$folder/clinic"
chmod 700 "$folder/acme" "$folder/clinic"

user_of() {
    case $1 in acme) echo daemon ;; clinic) echo nobody ;; esac
}

# Run a program as another user, without anything that root may do.
run_as() {
    user=$1
    shift
    setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups --inh-caps=-all --ambient-caps=-all -- "$@"
}

is_apart=no
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null && id daemon >/dev/null 2>&1 && id nobody >/dev/null 2>&1 &&
    run_as daemon "$(dirname "$crash")/python" -c "import subprocess, sys; subprocess.check_call([sys.executable, '-c', ''])" \
        2>/dev/null; then
    is_apart=yes
    chown -R daemon "$folder/acme"
    chown -R nobody "$folder/clinic"
    echo "acme runs as the user daemon, clinic as nobody"
fi

# Run a command of a party in its folder, and show it.
as() {
    party=$1
    shift
    printf '\n%s$ crash %s\n' "$party" "$*"
    if [ $is_apart = yes ]; then
        (cd "$folder/$party" && HOME="$folder/$party" CRASH_HOME="$folder/$party/.crash" \
            run_as "$(user_of "$party")" "$crash" "$@")
    else
        (cd "$folder/$party" && CRASH_HOME="$folder/$party/.crash" "$crash" "$@")
    fi
}

# Carry a file or folder from one party to the other.
send() {
    cp -r "$folder/$1/$2" "$folder/$3/$2"
    if [ $is_apart = yes ]; then chown -R "$(user_of "$3")" "$folder/$3/$2"; fi
    printf '\n%s -> %s: %s\n' "$1" "$3" "$2"
}

as acme keys new --name acme
as clinic keys new --name clinic
send acme acme.pub clinic
send clinic clinic.pub acme
as clinic keys trust acme.pub
as acme keys trust clinic.pub
as acme emulate owner.toml --to clinic --out emulator
send acme emulator clinic
as clinic tune emulator clinic.toml --out returned
send clinic returned acme
as acme plug-in returned --out plugged --accept
as acme unplug plugged
as acme ledger

# What neither party could do: the same settings in one process that has the model and the data.
together=$folder/together
mkdir "$together"
cp -r "$demo/model" "$demo/task" "$together"
{ cat "$demo/parties/owner.toml"; sed -n '/^\[tune\]/,$p' "$demo/parties/clinic.toml"; } >"$together/both.toml"
printf '\nboth$ crash run both.toml --set full_tune.enabled=false\n'
(cd "$together" && CRASH_HOME="$together/.crash" "$crash" run both.toml --set full_tune.enabled=false)
"$(dirname "$crash")/python" -m flows.demo.parties.compare "$folder/acme/.crash" "$folder/clinic/.crash" "$together/.crash"
