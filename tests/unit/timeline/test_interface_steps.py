"""What each release changed in the interface: the differences between neighbouring folders."""

from __future__ import annotations

import pytest

from nbexport.qapi import known_releases, load_release
from nbexport.qapi.model import AlternateType, Command, EnumType, Event, ObjectType
from nbexport.resources import data_path

FOLDERS = known_releases()

# What each folder has that the one before it has not (+), the other way round (-), and what it has
# in another form (~). Members are told below the command that takes them; a branch of a union is
# "=name". "<>" tells that the order of what stayed is another one.
STEPS = {
    "2.6": """
        -BlockdevCacheOptions.writeback +BlockDeviceInfo.bps_max_length
        +BlockDeviceInfo.bps_rd_max_length +BlockDeviceInfo.bps_wr_max_length
        +BlockDeviceInfo.iops_max_length +BlockDeviceInfo.iops_rd_max_length
        +BlockDeviceInfo.iops_wr_max_length +nbd-server-start.tls-creds
    """,
    "2.7": """
        -BlockdevOnError -BlockdevOptions.rerror -BlockdevOptions.stats-account-failed
        -BlockdevOptions.stats-account-invalid -BlockdevOptions.stats-intervals
        -BlockdevOptions.werror +ImageInfoSpecific.=luks +ImageInfoSpecificKind.luks
        +ImageInfoSpecificLUKSWrapper +QCryptoBlockInfoLUKS +QCryptoBlockInfoLUKSSlot
        +QCryptoCipherAlgorithm +QCryptoCipherMode +QCryptoHashAlgorithm
        +QCryptoIVGenAlgorithm
    """,
    "2.8": """
        -BlockdevOptions -blockdev-add.options -x-blockdev-del.id +BlockdevOptionsFile.aio
        +BlockdevOptionsRaw +QCryptoCipherMode.ctr +SocketAddress.=vsock
        +SocketAddressType.vsock +VsockSocketAddress +VsockSocketAddressWrapper
        +blockdev-add.=file +blockdev-add.=qcow2 +blockdev-add.=raw +blockdev-add.cache
        +blockdev-add.detect-zeroes +blockdev-add.discard +blockdev-add.driver
        +blockdev-add.node-name +blockdev-add.read-only ~x-blockdev-del.node-name
    """,
    "2.9": """
        -x-blockdev-del +InetSocketAddress.numeric +InetSocketAddressBase
        +QCryptoCipherAlgorithm.3des +blockdev-del
    """,
    "2.10": """
        -SocketAddress +BlockDirtyBitmapSha256 +BlockInfo.qdev +BlockdevOptionsFile.locking
        +BlockdevOptionsQcow2.encrypt +BlockdevQcow2Encryption
        +BlockdevQcow2EncryptionFormat +BlockdevRefOrNull +ImageInfoSpecificQCow2.encrypt
        +ImageInfoSpecificQCow2Encryption +ImageInfoSpecificQCow2EncryptionBase +OnOffAuto
        +QCryptoBlockInfoQCow +QCryptoBlockOptionsLUKS +QCryptoBlockOptionsQCow
        +SHUTDOWN.guest +SocketAddressLegacy +block-dirty-bitmap-add.autoload
        +block-dirty-bitmap-add.persistent +blockdev-add.force-share
        +x-debug-block-dirty-bitmap-sha256 ~BlockdevOptionsGenericCOWFormat.backing
        ~BlockdevOptionsQcow2.backing ~nbd-server-start.addr
    """,
    "2.11": "+BlockdevOptionsFile.pr-manager",
    "2.12": """
        +BlockdevOptionsQcow2.l2-cache-entry-size +DirtyBitmapStatus.locked
        +NbdServerRemoveMode +QMPCapability +SchemaInfoCommand.allow-oob
        +nbd-server-add.name +nbd-server-remove +qmp_capabilities.enable
    """,
    "3.0": """
        -QCryptoBlockInfoQCow +BlockdevOptionsFile.x-check-cache-dropped
        +Qcow2OverlapCheckFlags.bitmap-directory
        +TransactionAction.=x-block-dirty-bitmap-disable
        +TransactionAction.=x-block-dirty-bitmap-enable
        +TransactionActionKind.x-block-dirty-bitmap-disable
        +TransactionActionKind.x-block-dirty-bitmap-enable
        +block-dirty-bitmap-add.x-disabled +x-block-dirty-bitmap-disable
        +x-block-dirty-bitmap-enable +x-block-dirty-bitmap-merge +x-nbd-server-add-bitmap
        ~ImageInfoSpecificQCow2Encryption.=aes ~SchemaInfoCommand.allow-oob
        ~qmp_capabilities ~query-commands ~query-version <>ImageInfoSpecificQCow2Encryption
    """,
    "3.1": """
        +BlockDirtyBitmapMergeWrapper +TransactionAction.=x-block-dirty-bitmap-merge
        +TransactionActionKind.x-block-dirty-bitmap-merge +blockdev-add.auto-read-only
    """,
    "4.0": """
        -TransactionAction.=x-block-dirty-bitmap-disable
        -TransactionAction.=x-block-dirty-bitmap-enable
        -TransactionAction.=x-block-dirty-bitmap-merge
        -TransactionActionKind.x-block-dirty-bitmap-disable
        -TransactionActionKind.x-block-dirty-bitmap-enable
        -TransactionActionKind.x-block-dirty-bitmap-merge -block-dirty-bitmap-add.x-disabled
        -x-block-dirty-bitmap-disable -x-block-dirty-bitmap-enable
        -x-block-dirty-bitmap-merge -x-nbd-server-add-bitmap +BlockDirtyInfo.busy
        +BlockDirtyInfo.inconsistent +BlockDirtyInfo.persistent +BlockDirtyInfo.recording
        +BlockdevOptionsFile.drop-cache +BlockdevOptionsQcow2.data-file
        +DirtyBitmapStatus.inconsistent +ImageInfoSpecificQCow2.bitmaps
        +ImageInfoSpecificQCow2.data-file +ImageInfoSpecificQCow2.data-file-raw
        +Qcow2BitmapInfo +Qcow2BitmapInfoFlags +SHUTDOWN.reason +ShutdownCause
        +TransactionAction.=block-dirty-bitmap-disable
        +TransactionAction.=block-dirty-bitmap-enable
        +TransactionAction.=block-dirty-bitmap-merge
        +TransactionActionKind.block-dirty-bitmap-disable
        +TransactionActionKind.block-dirty-bitmap-enable
        +TransactionActionKind.block-dirty-bitmap-merge +block-dirty-bitmap-add.disabled
        +block-dirty-bitmap-disable +block-dirty-bitmap-enable +block-dirty-bitmap-merge
        +nbd-server-add.bitmap +nbd-server-start.tls-authz
    """,
    "4.1": """
        +BlockDirtyBitmapMergeSource +SchemaInfoObject.features ~BlockdevOptionsFile
        ~block-dirty-bitmap-merge.bitmaps
    """,
    "4.2": """
        -block-dirty-bitmap-add.autoload +BlockDeviceInfo.dirty-bitmaps
        +InetSocketAddress.keep-alive +SchemaInfoCommand.features
        +TransactionAction.=block-dirty-bitmap-remove
        +TransactionActionKind.block-dirty-bitmap-remove
    """,
    "5.0": """
        -SchemaInfoCommand.features -SchemaInfoObject.features +BlockdevAioOptions.io_uring
        +SchemaInfo.features +SchemaInfoObjectMember.features +nbd-server-add.description
        +query-named-block-nodes.flat ~BlockDeviceInfo.encryption_key_missing
        ~BlockDirtyInfo.status ~BlockInfo.dirty-bitmaps
    """,
    "5.1": """
        +ImageInfoSpecificQCow2.compression-type +Qcow2CompressionType
        +UnixSocketAddress.abstract +UnixSocketAddress.tight
    """,
    "5.2": """
        -NbdServerRemoveMode +BLOCK_EXPORT_DELETED +BlockExportInfo +BlockExportOptionsNbd
        +BlockExportOptionsNbdBase +BlockExportOptionsVhostUserBlk +BlockExportRemoveMode
        +BlockExportType +ImageInfoSpecificQCow2.extended-l2 +SnapshotInfo.icount
        +SocketAddress +block-export-add +block-export-del +nbd-server-start.max-connections
        +query-block-exports ~UnixSocketAddress.abstract ~UnixSocketAddress.tight
        ~nbd-server-add ~nbd-server-remove ~nbd-server-remove.mode <>UnixSocketAddress
        <>nbd-server-add
    """,
    "6.0": """
        -BlockDeviceInfo.encryption_key_missing -BlockDirtyInfo.status
        -BlockInfo.dirty-bitmaps -DirtyBitmapStatus +BlockExportOptionsFuse
        +BlockExportType.fuse +block-export-add.=fuse ~query-qmp-schema ~quit
    """,
    "6.1": """
        -QCryptoCipherAlgorithm.des-rfb +BlockExportOptionsFuse.allow-other
        +FuseExportAllowOther +ImageInfoSpecific.=rbd +ImageInfoSpecificKind.rbd
        +ImageInfoSpecificRbd +ImageInfoSpecificRbdWrapper +InetSocketAddress.mptcp
        +QCryptoCipherAlgorithm.des +RbdImageEncryptionFormat
    """,
    "6.2": """
        +BlockdevOptionsFile.aio-max-batch +SchemaInfoEnum.members +SchemaInfoEnumMember
        ~BlockdevOptionsFile.x-check-cache-dropped ~InetSocketAddress.mptcp
        ~SchemaInfoEnum.values ~x-debug-block-dirty-bitmap-sha256
    """,
    "7.0": "~BlockExportType.vhost-user-blk ~block-export-add.=vhost-user-blk",
    "7.1": """
        -BlockDirtyBitmapMergeSource +BlockDirtyBitmapOrStr +BlockExportOptionsVduseBlk
        +BlockExportType.vduse-blk +block-export-add.=vduse-blk
        ~BlockExportOptionsNbd.bitmaps ~block-dirty-bitmap-add ~block-dirty-bitmap-clear
        ~block-dirty-bitmap-disable ~block-dirty-bitmap-enable ~block-dirty-bitmap-merge
        ~block-dirty-bitmap-merge.bitmaps ~block-dirty-bitmap-remove ~block-export-add
        ~block-export-del ~blockdev-add ~blockdev-del ~nbd-server-add ~nbd-server-remove
        ~nbd-server-start ~nbd-server-stop ~query-block ~query-block-exports
        ~query-named-block-nodes ~x-debug-block-dirty-bitmap-sha256
    """,
    "7.2": "+ShutdownCause.snapshot-load",
    "8.0": """
        +BlockNodeInfo +ImageInfoSpecific.=file +ImageInfoSpecificFile
        +ImageInfoSpecificFileWrapper +ImageInfoSpecificKind.file
        +RbdImageEncryptionFormat.luks-any +VmdkExtentInfo ~ImageInfoSpecificVmdk.extents
        <>ImageInfo
    """,
    "8.1": "+BlockdevOptionsQcow2.discard-no-unref",
    "9.0": """
        -String -StringWrapper +FdSocketAddress +FdSocketAddressWrapper
        +QCryptoBlockInfoLUKS.detached-header +QCryptoCipherAlgorithm.sm4 ~SocketAddress.=fd
        ~SocketAddressLegacy.=fd
    """,
    "9.1": "",
    "9.2": """
        -QCryptoCipherAlgorithm -QCryptoHashAlgorithm -QCryptoIVGenAlgorithm
        +QCryptoCipherAlgo +QCryptoHashAlgo +QCryptoIVGenAlgo
        ~QCryptoBlockInfoLUKS.cipher-alg ~QCryptoBlockInfoLUKS.hash-alg
        ~QCryptoBlockInfoLUKS.ivgen-alg ~QCryptoBlockInfoLUKS.ivgen-hash-alg
    """,
    "10.0": """
        +BlockDeviceInfo.active +NbdServerOptionsBase +block-export-add.allow-inactive
        +blockdev-add.active +nbd-server-start.handshake-max-seconds <>nbd-server-start
    """,
    "10.1": """
        +BlockDeviceInfo.children +BlockdevChild +InetSocketAddress.keep-alive-count
        +InetSocketAddress.keep-alive-idle +InetSocketAddress.keep-alive-interval
        ~BlockDeviceInfo.node-name
    """,
    "10.2": "+BlockLimitsInfo +BlockNodeInfo.limits +ImageInfo.limits",
    "11.0": "+BlockExportIothreads +query-block.flat ~block-export-add.iothread",
}


def wire(schema):
    """Each definition's own form and that of each of its parts, by what a client can see of it."""
    taken = {command.arg_type for command in (*schema.commands(), *schema.events())}
    found = {}
    for entity in schema.entities.values():
        if entity.info is None or getattr(entity, "implicit", False) or entity in taken:
            continue
        head = [str(entity.condition), [(f.name, str(f.condition)) for f in entity.features]]
        kind = entity.arg_type if isinstance(entity, Command | Event) else entity
        if isinstance(entity, Command):
            head += [entity.ret_type and entity.ret_type.name, entity.allow_preconfig]
        parts = {}
        if isinstance(kind, ObjectType):
            parts = {m.name: form(m, m.type.name, m.optional) for m in schema.members(kind)}
            parts |= {f"={v.name}": form(v, v.type.name) for v in kind.variants if v.type.name}
        elif isinstance(kind, AlternateType):
            parts = {variant.name: form(variant, variant.type.name) for variant in kind.variants}
        elif isinstance(kind, EnumType):
            parts = {value.name: form(value) for value in kind.members}
        found[entity.name] = (head, parts)
    return found


def form(part, *more):
    features = tuple(feature.name for feature in getattr(part, "features", ()))
    return (*more, str(part.condition), features)


def differences(old, new):
    yield from (f"-{name}" for name in old if name not in new)
    yield from (f"+{name}" for name in new if name not in old)
    for name in old.keys() & new.keys():
        (old_head, before), (new_head, after) = old[name], new[name]
        if old_head != new_head:
            yield f"~{name}"
        yield from (f"-{name}.{part}" for part in before if part not in after)
        yield from (f"+{name}.{part}" for part in after if part not in before)
        yield from (f"~{name}.{p}" for p in before if p in after and before[p] != after[p])
        if [p for p in before if p in after] != [p for p in after if p in before]:
            yield f"<>{name}"


@pytest.mark.parametrize("release", FOLDERS[1:])
def test_a_step_changes_what_is_known_and_nothing_else(release):
    older = FOLDERS[FOLDERS.index(release) - 1]
    found = sorted(differences(wire(load_release(older)), wire(load_release(release))))
    assert found == sorted(STEPS[release].split())


def test_a_release_without_a_step_on_the_wire_differs_in_its_documentation():
    assert [name for name, text in STEPS.items() if not text] == ["9.1"]
    texts = [
        data_path("interface", name, "block-export.json").read_text() for name in ("9.0", "9.1")
    ]
    assert texts[0] != texts[1]
