#!/usr/bin/env bash
# Bring files of a Debian source package, of the machine's own release.
#
#   .ci/fetch_source.sh PACKAGE FOLDER [PATTERN...]      (patterns of tar; default: all files)
#
# The sources are downloaded, never installed and never committed. They need not be enabled: the
# entries are derived from the machine's own lists, in a folder of their own, so nothing of the
# machine's state changes. Needs no root.
set -euo pipefail
cd "$(dirname "$0")/.."
package=$1 folder=$2
shift 2
[ -e "$folder/complete" ] && exit 0
if [ -e "$folder" ]; then
    echo "$0: $folder exists and is not what an earlier run brought: remove it first" >&2
    exit 1
fi

# Beside the target, so that the last step is a rename and what stands there is always whole.
mkdir -p "$(dirname "$folder")"
work=$(realpath "$(mktemp -d "$folder.XXXXXX")")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/download" "$work/tree"

# One-line entries: "deb [options] URI suite components".
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ -r "$list" ] || continue
    sed -n -E 's/^[[:space:]]*deb[[:space:]]+/deb-src /p' "$list"
done | grep -wE 'main' >"$work/derived.list" || true
# The newer form has a "Types:" line in each stanza; comments may stand between its lines.
for list in /etc/apt/sources.list.d/*.sources; do
    [ -r "$list" ] || continue
    grep -v '^#' "$list" | awk -v RS= -v ORS='\n\n' '/(^|\n)Components:[^\n]*main/' \
        | sed -E 's/^Types:.*/Types: deb-src/' >>"$work/derived.sources"
done
mkdir "$work/parts"
for list in derived.list derived.sources; do
    [ ! -s "$work/$list" ] || mv "$work/$list" "$work/parts/"
done

options=(
    -qq
    -o "Dir::Etc::sourcelist=/dev/null"
    -o "Dir::Etc::sourceparts=$work/parts"
    -o "Dir::State::lists=$work/lists"
    -o "Dir::Cache::archives=$work/archives"
    -o "Dir::Cache::pkgcache="
    -o "Dir::Cache::srcpkgcache="
    -o "APT::Sandbox::User=$(id -un)"
    -o "Acquire::Retries=3"
)
timeout 600 apt-get "${options[@]}" update
(cd "$work/download" && timeout 900 apt-get "${options[@]}" source --download-only "$package")

rm -f "$work"/download/*.asc
tar --extract --file "$work"/download/"$package"_*.orig.tar.* --directory "$work/tree" \
    --strip-components=1 --wildcards --no-wildcards-match-slash "$@"
touch "$work/tree/complete"
mv "$work/tree" "$folder"
