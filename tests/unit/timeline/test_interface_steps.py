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
        +BlockDeviceInfo.iops_wr_max_length +block_set_io_throttle.bps_max_length
        +block_set_io_throttle.bps_rd_max_length +block_set_io_throttle.bps_wr_max_length
        +block_set_io_throttle.iops_max_length +block_set_io_throttle.iops_rd_max_length
        +block_set_io_throttle.iops_wr_max_length +blockdev-mirror
        +nbd-server-start.tls-creds
    """,
    "2.7": """
        -BlockdevOptions.rerror -BlockdevOptions.stats-account-failed
        -BlockdevOptions.stats-account-invalid -BlockdevOptions.stats-intervals
        -BlockdevOptions.werror +BlockdevOnError.auto +ImageInfoSpecific.=luks
        +ImageInfoSpecificKind.luks +ImageInfoSpecificLUKSWrapper +QCryptoBlockInfoLUKS
        +QCryptoBlockInfoLUKSSlot +QCryptoCipherAlgorithm +QCryptoCipherMode
        +QCryptoHashAlgorithm +QCryptoIVGenAlgorithm +block-commit.job-id
        +block-stream.job-id +blockdev-backup.job-id +blockdev-mirror.job-id
        +drive-backup.job-id +drive-mirror.job-id
    """,
    "2.8": """
        -BlockdevOptions -blockdev-add.options -x-blockdev-del.id +BlockdevDriver.nbd
        +BlockdevOptionsFile.aio +BlockdevOptionsNbd +BlockdevOptionsRaw
        +DEVICE_TRAY_MOVED.id +QCryptoCipherMode.ctr +RunState.colo +SocketAddress.=vsock
        +SocketAddressType.vsock +VsockSocketAddress +VsockSocketAddressWrapper
        +block-stream.base-node +block_set_io_throttle.id +blockdev-add.=blkdebug
        +blockdev-add.=file +blockdev-add.=nbd +blockdev-add.=null-aio
        +blockdev-add.=null-co +blockdev-add.=qcow2 +blockdev-add.=raw +blockdev-add.cache
        +blockdev-add.detect-zeroes +blockdev-add.discard +blockdev-add.driver
        +blockdev-add.node-name +blockdev-add.read-only +blockdev-backup.compress
        +device_add +drive-backup.compress +eject.id ~block_set_io_throttle.device
        ~eject.device ~x-blockdev-del.node-name
    """,
    "2.9": """
        -x-blockdev-del +InetSocketAddress.numeric +InetSocketAddressBase
        +QCryptoCipherAlgorithm.3des +SocketAddressFlat +SocketAddressFlatType
        +block-commit.filter-node-name +blockdev-del +blockdev-mirror.filter-node-name
        +device_add.bus ~BlockdevOptionsNbd.server ~device_add.id
    """,
    "2.10": """
        -SocketAddressFlat -SocketAddressFlatType +BlockDirtyBitmapSha256 +BlockInfo.qdev
        +BlockdevOptionsBlkdebug.max-discard +BlockdevOptionsBlkdebug.max-transfer
        +BlockdevOptionsBlkdebug.max-write-zero +BlockdevOptionsBlkdebug.opt-discard
        +BlockdevOptionsBlkdebug.opt-write-zero +BlockdevOptionsFile.locking
        +BlockdevOptionsQcow2.encrypt +BlockdevQcow2Encryption
        +BlockdevQcow2EncryptionFormat +BlockdevRefOrNull +ImageInfoSpecificQCow2.encrypt
        +ImageInfoSpecificQCow2Encryption +ImageInfoSpecificQCow2EncryptionBase
        +ObjectTypeInfo.abstract +ObjectTypeInfo.parent +OnOffAuto +QCryptoBlockInfoQCow
        +QCryptoBlockOptionsLUKS +QCryptoBlockOptionsQCow +RESET.guest +SHUTDOWN.guest
        +SocketAddressLegacy +block-dirty-bitmap-add.autoload
        +block-dirty-bitmap-add.persistent +blockdev-add.force-share
        +x-debug-block-dirty-bitmap-sha256 ~BlockdevOptionsGenericCOWFormat.backing
        ~BlockdevOptionsNbd.server ~BlockdevOptionsQcow2.backing ~SocketAddress.=fd
        ~SocketAddress.=inet ~SocketAddress.=unix ~SocketAddress.=vsock
        ~nbd-server-start.addr
    """,
    "2.11": """
        +BlkdebugEvent.cor_write +BlkdebugEvent.l1_shrink_free_l2_clusters
        +BlkdebugEvent.l1_shrink_write_table +BlockdevDriver.throttle
        +BlockdevOptionsFile.pr-manager +BlockdevOptionsThrottle +blockdev-add.=throttle
    """,
    "2.12": """
        +BLOCK_JOB_PENDING +BlockJobInfo.auto-dismiss +BlockJobInfo.auto-finalize
        +BlockJobInfo.status +BlockJobStatus +BlockdevOptionsQcow2.l2-cache-entry-size
        +DirtyBitmapStatus.locked +NbdServerRemoveMode +QMPCapability
        +SchemaInfoCommand.allow-oob +StrOrNull +block-job-dismiss +block-job-finalize
        +blockdev-backup.auto-dismiss +blockdev-backup.auto-finalize
        +drive-backup.auto-dismiss +drive-backup.auto-finalize +nbd-server-add.name
        +nbd-server-remove +qmp_capabilities.enable +x-blockdev-set-iothread
    """,
    "3.0": """
        -BlockJobStatus -BlockJobType -QCryptoBlockInfoQCow +BlockJobInfo.error
        +BlockdevCreateOptions +BlockdevCreateOptionsFile +BlockdevCreateOptionsQcow2
        +BlockdevDriver.copy-on-read +BlockdevOptionsFile.x-check-cache-dropped
        +BlockdevOptionsNbd.x-dirty-bitmap +BlockdevQcow2Version +JOB_STATUS_CHANGE +JobInfo
        +JobStatus +JobType +MirrorCopyMode +PreallocMode +QCryptoBlockCreateOptions
        +QCryptoBlockCreateOptionsLUKS +QCryptoBlockFormat +QCryptoBlockOptionsBase
        +Qcow2OverlapCheckFlags.bitmap-directory +RunState.preconfig
        +TransactionAction.=x-block-dirty-bitmap-disable
        +TransactionAction.=x-block-dirty-bitmap-enable
        +TransactionActionKind.x-block-dirty-bitmap-disable
        +TransactionActionKind.x-block-dirty-bitmap-enable
        +block-dirty-bitmap-add.x-disabled +blockdev-add.=copy-on-read +blockdev-create
        +blockdev-mirror.copy-mode +drive-mirror.copy-mode +job-cancel +job-complete
        +job-dismiss +job-finalize +job-pause +job-resume +query-jobs
        +x-block-dirty-bitmap-disable +x-block-dirty-bitmap-enable
        +x-block-dirty-bitmap-merge +x-nbd-server-add-bitmap ~BLOCK_JOB_CANCELLED.type
        ~BLOCK_JOB_COMPLETED.type ~BLOCK_JOB_PENDING.type ~BLOCK_JOB_READY.type
        ~BlockJobInfo.status ~ImageInfoSpecificQCow2Encryption.=aes
        ~SchemaInfoCommand.allow-oob ~qmp_capabilities ~qom-get ~qom-list-types ~qom-set
        ~query-commands ~query-status ~query-version <>ImageInfoSpecificQCow2Encryption
    """,
    "3.1": """
        +BlockDirtyBitmapMergeWrapper +TransactionAction.=x-block-dirty-bitmap-merge
        +TransactionActionKind.x-block-dirty-bitmap-merge +block-commit.auto-dismiss
        +block-commit.auto-finalize +block-commit.base-node +block-commit.top-node
        +block-stream.auto-dismiss +block-stream.auto-finalize +blockdev-add.auto-read-only
        +blockdev-backup.bitmap +blockdev-mirror.auto-dismiss +blockdev-mirror.auto-finalize
        +drive-mirror.auto-dismiss +drive-mirror.auto-finalize
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
        +BlockdevCreateOptionsQcow2.data-file +BlockdevCreateOptionsQcow2.data-file-raw
        +BlockdevOptionsFile.drop-cache +BlockdevOptionsQcow2.data-file
        +DirtyBitmapStatus.inconsistent +ImageInfoSpecificQCow2.bitmaps
        +ImageInfoSpecificQCow2.data-file +ImageInfoSpecificQCow2.data-file-raw
        +Qcow2BitmapInfo +Qcow2BitmapInfoFlags +RESET.reason +SHUTDOWN.reason +ShutdownCause
        +TransactionAction.=block-dirty-bitmap-disable
        +TransactionAction.=block-dirty-bitmap-enable
        +TransactionAction.=block-dirty-bitmap-merge
        +TransactionActionKind.block-dirty-bitmap-disable
        +TransactionActionKind.block-dirty-bitmap-enable
        +TransactionActionKind.block-dirty-bitmap-merge +block-dirty-bitmap-add.disabled
        +block-dirty-bitmap-disable +block-dirty-bitmap-enable +block-dirty-bitmap-merge
        +nbd-server-add.bitmap +nbd-server-start.tls-authz +x-blockdev-reopen
    """,
    "4.1": """
        +BlkdebugEvent.cluster_alloc_space +BlkdebugEvent.none +BlkdebugIOType
        +BlkdebugInjectErrorOptions.iotype +BlockDirtyBitmapMergeSource
        +BlockdevOptionsNull.read-zeroes +SchemaInfoObject.features ~BlockdevOptionsFile
        ~block-dirty-bitmap-merge.bitmaps
    """,
    "4.2": """
        -block-dirty-bitmap-add.autoload +BackupCommon +BitmapSyncMode
        +BlockDeviceInfo.dirty-bitmaps +BlockdevOptionsNbd.reconnect-delay
        +InetSocketAddress.keep-alive +MirrorSyncMode.bitmap +SchemaInfoCommand.features
        +TransactionAction.=block-dirty-bitmap-remove
        +TransactionActionKind.block-dirty-bitmap-remove +blockdev-backup.bitmap-mode
        +blockdev-backup.filter-node-name +drive-backup.bitmap-mode
        +drive-backup.filter-node-name ~human-monitor-command <>blockdev-backup
        <>drive-backup
    """,
    "5.0": """
        -SchemaInfoCommand.features -SchemaInfoObject.features +BlockPermission
        +BlockdevAioOptions.io_uring +BlockdevCreateOptions.=compress
        +BlockdevDriver.compress +BlockdevOptionsBlkdebug.take-child-perms
        +BlockdevOptionsBlkdebug.unshare-child-perms +SchemaInfo.features
        +SchemaInfoObjectMember.features +block-commit.on-error +blockdev-add.=compress
        +nbd-server-add.description +query-named-block-nodes.flat
        +x-blockdev-reopen.=compress ~BlockDeviceInfo.encryption_key_missing
        ~BlockDirtyInfo.status ~BlockInfo.dirty-bitmaps ~block-commit.base ~block-commit.top
        ~block_set_io_throttle.device ~blockdev-snapshot ~eject.device
    """,
    "5.1": """
        +BlockdevCreateOptionsFile.extent-size-hint
        +BlockdevCreateOptionsQcow2.compression-type
        +ImageInfoSpecificQCow2.compression-type +JobType.amend +Qcow2CompressionType
        +UnixSocketAddress.abstract +UnixSocketAddress.tight
    """,
    "5.2": """
        -NbdServerRemoveMode +BLOCK_EXPORT_DELETED +BlockExportInfo +BlockExportOptionsNbd
        +BlockExportOptionsNbdBase +BlockExportOptionsVhostUserBlk +BlockExportRemoveMode
        +BlockExportType +BlockdevCreateOptionsQcow2.extended-l2
        +ImageInfoSpecificQCow2.extended-l2 +SnapshotInfo.icount +block-export-add
        +block-export-del +nbd-server-start.max-connections +query-block-exports
        ~UnixSocketAddress.abstract ~UnixSocketAddress.tight ~nbd-server-add
        ~nbd-server-remove ~nbd-server-remove.mode <>UnixSocketAddress <>nbd-server-add
    """,
    "6.0": """
        -BlockDeviceInfo.encryption_key_missing -BlockDirtyInfo.status
        -BlockInfo.dirty-bitmaps -DirtyBitmapStatus -RunState.preconfig -object-add.props
        +AuthZListProperties +AuthZSimpleProperties +BackupCommon.x-perf +BackupPerf
        +BlockExportOptionsFuse +BlockExportType.fuse +BlockdevCreateOptions.=preallocate
        +BlockdevDriver.preallocate +BlockdevOptionsCor +BlockdevOptionsPreallocate
        +IothreadProperties +JobType.snapshot-delete +JobType.snapshot-load
        +JobType.snapshot-save +ObjectType +QAuthZListFormat +QAuthZListPolicy
        +QAuthZListRule +QCryptoSecretFormat +QCryptoTLSCredsEndpoint
        +SecretCommonProperties +SecretProperties +ThrottleGroupProperties +ThrottleLimits
        +TlsCredsAnonProperties +TlsCredsProperties +TlsCredsPskProperties
        +TlsCredsX509Properties +block-export-add.=fuse +block-stream.bottom
        +block-stream.filter-node-name +blockdev-add.=preallocate +blockdev-backup.x-perf
        +drive-backup.x-perf +object-add.=authz-list +object-add.=authz-simple
        +object-add.=iothread +object-add.=secret +object-add.=throttle-group
        +object-add.=tls-creds-anon +object-add.=tls-creds-psk +object-add.=tls-creds-x509
        +x-blockdev-reopen.=preallocate ~blockdev-add.=copy-on-read ~object-add.qom-type
        ~query-qmp-schema ~quit ~x-blockdev-reopen.=copy-on-read
    """,
    "6.1": """
        -QCryptoCipherAlgorithm.des-rfb -x-blockdev-reopen
        +BlockExportOptionsFuse.allow-other +FuseExportAllowOther +ImageInfoSpecific.=rbd
        +ImageInfoSpecificKind.rbd +ImageInfoSpecificRbd +ImageInfoSpecificRbdWrapper
        +InetSocketAddress.mptcp +IothreadProperties.aio-max-batch
        +QCryptoCipherAlgorithm.des +RbdImageEncryptionFormat +blockdev-reopen ~object-add
        ~object-del
    """,
    "6.2": """
        +BlockdevCreateOptions.=copy-before-write +BlockdevDriver.copy-before-write
        +BlockdevOptionsCbw +BlockdevOptionsFile.aio-max-batch +SchemaInfoEnum.members
        +SchemaInfoEnumMember +blockdev-add.=copy-before-write ~BackupCommon.x-perf
        ~BlockdevOptionsFile.x-check-cache-dropped ~BlockdevOptionsNbd.x-dirty-bitmap
        ~InetSocketAddress.mptcp ~SchemaInfoEnum.values ~ThrottleGroupProperties.x-bps-read
        ~ThrottleGroupProperties.x-bps-read-max
        ~ThrottleGroupProperties.x-bps-read-max-length ~ThrottleGroupProperties.x-bps-total
        ~ThrottleGroupProperties.x-bps-total-max
        ~ThrottleGroupProperties.x-bps-total-max-length ~ThrottleGroupProperties.x-bps-write
        ~ThrottleGroupProperties.x-bps-write-max
        ~ThrottleGroupProperties.x-bps-write-max-length ~ThrottleGroupProperties.x-iops-read
        ~ThrottleGroupProperties.x-iops-read-max
        ~ThrottleGroupProperties.x-iops-read-max-length ~ThrottleGroupProperties.x-iops-size
        ~ThrottleGroupProperties.x-iops-total ~ThrottleGroupProperties.x-iops-total-max
        ~ThrottleGroupProperties.x-iops-total-max-length
        ~ThrottleGroupProperties.x-iops-write ~ThrottleGroupProperties.x-iops-write-max
        ~ThrottleGroupProperties.x-iops-write-max-length ~TransactionActionKind.drive-backup
        ~blockdev-backup.x-perf ~device_add ~drive-backup ~drive-backup.x-perf
        ~x-blockdev-set-iothread ~x-debug-block-dirty-bitmap-sha256
    """,
    "7.0": """
        -BlockPermission.graph-mod +BlockdevCreateOptions.=snapshot-access
        +BlockdevDriver.snapshot-access +BlockdevOptionsCbw.bitmap
        +BlockdevOptionsNbd.open-timeout +BlockdevOptionsNbd.tls-hostname
        +blockdev-add.=snapshot-access ~BlockExportType.vhost-user-blk
        ~block-export-add.=vhost-user-blk ~device_add
    """,
    "7.1": """
        -BlockDirtyBitmapMergeSource +BlockDirtyBitmapOrStr +BlockExportOptionsVduseBlk
        +BlockExportType.vduse-blk +BlockdevOptionsCbw.cbw-timeout
        +BlockdevOptionsCbw.on-cbw-error +EventLoopBaseProperties
        +IothreadProperties.thread-pool-max +IothreadProperties.thread-pool-min +OnCbwError
        +block-export-add.=vduse-blk ~BlockExportOptionsNbd.bitmaps ~block-commit
        ~block-dirty-bitmap-add ~block-dirty-bitmap-clear ~block-dirty-bitmap-disable
        ~block-dirty-bitmap-enable ~block-dirty-bitmap-merge
        ~block-dirty-bitmap-merge.bitmaps ~block-dirty-bitmap-remove ~block-export-add
        ~block-export-del ~block-job-cancel ~block-job-complete ~block-job-dismiss
        ~block-job-finalize ~block-job-pause ~block-job-resume ~block-job-set-speed
        ~block-stream ~block_resize ~block_set_io_throttle ~blockdev-add ~blockdev-backup
        ~blockdev-create ~blockdev-del ~blockdev-mirror ~blockdev-reopen ~blockdev-snapshot
        ~blockdev-snapshot-sync ~change-backing-file ~drive-backup ~drive-mirror
        ~nbd-server-add ~nbd-server-remove ~nbd-server-start ~nbd-server-stop ~query-block
        ~query-block-exports ~query-block-jobs ~query-named-block-nodes
        ~x-blockdev-set-iothread ~x-debug-block-dirty-bitmap-sha256 <>IothreadProperties
    """,
    "7.2": "+ShutdownCause.snapshot-load",
    "8.0": """
        +BlockNodeInfo +ImageInfoSpecific.=file +ImageInfoSpecificFile
        +ImageInfoSpecificFileWrapper +ImageInfoSpecificKind.file
        +RbdImageEncryptionFormat.luks-any +VmdkExtentInfo ~ImageInfoSpecificVmdk.extents
        <>ImageInfo
    """,
    "8.1": "+BlockdevOptionsQcow2.discard-no-unref ~StatusInfo.singlestep",
    "8.2": """
        +BlockJobChangeOptionsMirror +BlockJobInfo.=amend +BlockJobInfo.=backup
        +BlockJobInfo.=commit +BlockJobInfo.=create +BlockJobInfo.=mirror
        +BlockJobInfo.=snapshot-delete +BlockJobInfo.=snapshot-load
        +BlockJobInfo.=snapshot-save +BlockJobInfo.=stream +BlockJobInfoMirror
        +block-job-change ~BlockJobInfo.type
    """,
    "9.0": """
        -StatusInfo.singlestep -String -StringWrapper +FdSocketAddress
        +FdSocketAddressWrapper +QCryptoBlockCreateOptionsLUKS.detached-header
        +QCryptoBlockInfoLUKS.detached-header +QCryptoCipherAlgorithm.sm4
        +block-commit.backing-mask-protocol +block-stream.backing-mask-protocol
        ~SocketAddress.=fd ~SocketAddressLegacy.=fd
    """,
    "9.1": """
        +BackupCommon.discard-source +blockdev-backup.discard-source
        +drive-backup.discard-source
    """,
    "9.2": """
        -QCryptoCipherAlgorithm -QCryptoHashAlgorithm -QCryptoIVGenAlgorithm
        -SecretCommonProperties.loaded -SecretProperties.loaded
        -TlsCredsAnonProperties.loaded -TlsCredsPskProperties.loaded
        -TlsCredsX509Properties.loaded +BackupPerf.min-cluster-size
        +BlockdevOptionsCbw.min-cluster-size +QCryptoCipherAlgo +QCryptoHashAlgo
        +QCryptoIVGenAlgo ~QCryptoBlockCreateOptionsLUKS.cipher-alg
        ~QCryptoBlockCreateOptionsLUKS.hash-alg ~QCryptoBlockCreateOptionsLUKS.ivgen-alg
        ~QCryptoBlockCreateOptionsLUKS.ivgen-hash-alg ~QCryptoBlockInfoLUKS.cipher-alg
        ~QCryptoBlockInfoLUKS.hash-alg ~QCryptoBlockInfoLUKS.ivgen-alg
        ~QCryptoBlockInfoLUKS.ivgen-hash-alg
    """,
    "10.0": """
        +BlockDeviceInfo.active +NbdServerOptionsBase +block-export-add.allow-inactive
        +blockdev-add.active +nbd-server-start.handshake-max-seconds <>nbd-server-start
    """,
    "10.1": """
        +BlockDeviceInfo.children +BlockdevChild +InetSocketAddress.keep-alive-count
        +InetSocketAddress.keep-alive-idle +InetSocketAddress.keep-alive-interval
        +blockdev-mirror.target-is-zero ~BlockDeviceInfo.node-name ~block-job-complete
        ~block-job-dismiss ~block-job-finalize ~block-job-pause ~block-job-resume
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


def test_a_changed_default_is_a_change_of_the_documentation():
    texts = [
        data_path("interface", name, "block-export.json").read_text() for name in ("9.0", "9.1")
    ]
    assert texts[0] != texts[1]
