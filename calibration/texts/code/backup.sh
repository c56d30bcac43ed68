#!/usr/bin/env bash
# Snapshot a folder into dated copies that share unchanged files by hard links, and keep a thinning history of them.
set -euo pipefail

usage() {
    cat >&2 <<USAGE
usage: ${0##*/} [-n] [-k DAYS] SOURCE TARGET
  -n        say what would be done, do nothing
  -k DAYS   keep every snapshot of the last DAYS days (default 14), one per month before
USAGE
    exit 2
}

dry_run=
keep_days=14
while getopts nk: option; do
    case $option in
        n) dry_run=echo ;;
        k) keep_days=$OPTARG ;;
        *) usage ;;
    esac
done
shift $((OPTIND - 1))
[[ $# -eq 2 ]] || usage
source=${1%/} target=${2%/}

[[ -d $source ]] || { echo "${0##*/}: no such folder: $source" >&2; exit 1; }
mkdir -p "$target"

# Only one of us at a time; the lock goes away with the process.
exec 9>"$target/.lock"
flock -n 9 || { echo "${0##*/}: another run is at work in $target" >&2; exit 1; }

now=$(date +%Y-%m-%dT%H%M%S)
previous=$(find "$target" -mindepth 1 -maxdepth 1 -type d -name '20*' | sort | tail -n 1)
link=()
[[ -n $previous ]] && link=(--link-dest="$(realpath "$previous")")

trap 'rm -rf "$target/.partial"' EXIT
$dry_run rsync -a --delete "${link[@]}" "$source/" "$target/.partial/"
$dry_run mv "$target/.partial" "$target/$now"

declare -A month_has
limit=$(date -d "$keep_days days ago" +%Y-%m-%d)
for snapshot in "$target"/20*; do
    name=${snapshot##*/}
    [[ ${name:0:10} > $limit ]] && continue
    month=${name:0:7}
    if [[ -n ${month_has[$month]:-} ]]; then
        echo "thinning out $name"
        $dry_run rm -rf "$snapshot"
    fi
    month_has[$month]=1
done
df -h --output=used,avail,pcent "$target"
