#!/bin/sh
# Makes two-bitmaps.qcow2 and its backing file two-bitmaps.base.qcow2 in the folder named by the
# first argument (default: the folder of this script). Needs qemu-img and qemu-io, 7.2 or later;
# the same release makes the same bytes.
#
# The story that the image tells: a disk was installed (the base), then run from an overlay. On
# Sunday a full backup started the bitmap `weekly` (64 KiB a bit), on Monday an incremental one
# started `daily` (4 KiB a bit). Each bitmap holds what was written, zeroed or discarded after it
# was added, so `daily` marks a part of what `weekly` marks, but more sharply.
#
# Clusters are small (4 and 8 KiB) and large areas are compressed, so that 64 MiB of disk with all
# kinds of clusters fit into a repository.
set -eu
cd "${1:-$(dirname "$0")}"
base=two-bitmaps.base.qcow2
top=two-bitmaps.qcow2
rm -f "$base" "$top"

# Reads commands from standard input.
io() { qemu-io -f qcow2 "$1" >/dev/null; }

# compressed PATTERN FIRST LENGTH CLUSTER (all in KiB): one write a cluster, because a longer
# compressed write is split over parallel workers and lands in a different order each time.
compressed() {
    for at in $(seq "$2" "$4" $(($2 + $3 - $4))); do
        echo "write -c -P $1 ${at}k ${4}k"
    done
}

qemu-img create -q -f qcow2 -o cluster_size=8k "$base" 48M
{ compressed 0x11 0 4096 8; compressed 0x12 20480 2048 8; } | io "$base"
io "$base" <<END
write -P 0x13 30M 16k
write -z 34M 3M
write -P 0x14 47M 16k
END

# The overlay is larger than its backing file: what lies above 48 MiB reads as zeroes.
qemu-img create -q -f qcow2 -o cluster_size=4k -b "$base" -F qcow2 "$top" 64M
{ compressed 0x21 2048 1024 4; compressed 0x22 51200 2048 4; } | io "$top"

qemu-img bitmap --add --enable -g 64k "$top" weekly
io "$top" <<END
write -P 0x31 9M 20k
write -P 0x32 21M 4k
write -P 0x33 21504k 4k
write -z 40M 2M
discard 51M 512k
END

qemu-img bitmap --add --enable -g 4k "$top" daily
io "$top" <<END
write -P 0x41 9224k 12k
write -P 0x42 13M 4k
write -P 0x43 13320k 8k
write -P 0x44 13336k 4k
write -z 22M 1M
discard 58M 1M
write -P 0x45 65528k 8k
END

qemu-img check -q "$base"
qemu-img check -q "$top"
