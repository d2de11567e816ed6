from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TableState(_message.Message):
    __slots__ = ("num_transitions", "num_free_inserts", "num_paced_inserts", "num_sampled", "samples_per_insert", "error_buffer_steps", "min_size_to_sample", "capacity_steps", "num_chunks", "num_drawable", "mass", "max_priority", "num_seeded", "num_stale_updates", "num_duplicate_chunks", "num_refused_chunks", "revision", "incarnation", "independent_draws", "packed", "annotation_width", "num_annotated", "num_stale_annotations", "draining", "n_step", "num_inserted_before")
    NUM_TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    NUM_FREE_INSERTS_FIELD_NUMBER: _ClassVar[int]
    NUM_PACED_INSERTS_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLED_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_PER_INSERT_FIELD_NUMBER: _ClassVar[int]
    ERROR_BUFFER_STEPS_FIELD_NUMBER: _ClassVar[int]
    MIN_SIZE_TO_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_STEPS_FIELD_NUMBER: _ClassVar[int]
    NUM_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    NUM_DRAWABLE_FIELD_NUMBER: _ClassVar[int]
    MASS_FIELD_NUMBER: _ClassVar[int]
    MAX_PRIORITY_FIELD_NUMBER: _ClassVar[int]
    NUM_SEEDED_FIELD_NUMBER: _ClassVar[int]
    NUM_STALE_UPDATES_FIELD_NUMBER: _ClassVar[int]
    NUM_DUPLICATE_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    NUM_REFUSED_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    INDEPENDENT_DRAWS_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    ANNOTATION_WIDTH_FIELD_NUMBER: _ClassVar[int]
    NUM_ANNOTATED_FIELD_NUMBER: _ClassVar[int]
    NUM_STALE_ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    N_STEP_FIELD_NUMBER: _ClassVar[int]
    NUM_INSERTED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    num_transitions: int
    num_free_inserts: int
    num_paced_inserts: int
    num_sampled: int
    samples_per_insert: float
    error_buffer_steps: int
    min_size_to_sample: int
    capacity_steps: int
    num_chunks: int
    num_drawable: int
    mass: float
    max_priority: float
    num_seeded: int
    num_stale_updates: int
    num_duplicate_chunks: int
    num_refused_chunks: int
    revision: int
    incarnation: int
    independent_draws: bool
    packed: bool
    annotation_width: int
    num_annotated: int
    num_stale_annotations: int
    draining: bool
    n_step: int
    num_inserted_before: int
    def __init__(self, num_transitions: _Optional[int] = ..., num_free_inserts: _Optional[int] = ..., num_paced_inserts: _Optional[int] = ..., num_sampled: _Optional[int] = ..., samples_per_insert: _Optional[float] = ..., error_buffer_steps: _Optional[int] = ..., min_size_to_sample: _Optional[int] = ..., capacity_steps: _Optional[int] = ..., num_chunks: _Optional[int] = ..., num_drawable: _Optional[int] = ..., mass: _Optional[float] = ..., max_priority: _Optional[float] = ..., num_seeded: _Optional[int] = ..., num_stale_updates: _Optional[int] = ..., num_duplicate_chunks: _Optional[int] = ..., num_refused_chunks: _Optional[int] = ..., revision: _Optional[int] = ..., incarnation: _Optional[int] = ..., independent_draws: bool = ..., packed: bool = ..., annotation_width: _Optional[int] = ..., num_annotated: _Optional[int] = ..., num_stale_annotations: _Optional[int] = ..., draining: bool = ..., n_step: _Optional[int] = ..., num_inserted_before: _Optional[int] = ...) -> None: ...

class InsertRequest(_message.Message):
    __slots__ = ("table", "writer_id", "first_sequence", "chunks", "max_priority")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    WRITER_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    MAX_PRIORITY_FIELD_NUMBER: _ClassVar[int]
    table: str
    writer_id: str
    first_sequence: int
    chunks: _containers.RepeatedScalarFieldContainer[bytes]
    max_priority: float
    def __init__(self, table: _Optional[str] = ..., writer_id: _Optional[str] = ..., first_sequence: _Optional[int] = ..., chunks: _Optional[_Iterable[bytes]] = ..., max_priority: _Optional[float] = ...) -> None: ...

class InsertReply(_message.Message):
    __slots__ = ("num_accepted", "state")
    NUM_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    num_accepted: int
    state: TableState
    def __init__(self, num_accepted: _Optional[int] = ..., state: _Optional[_Union[TableState, _Mapping]] = ...) -> None: ...

class ReserveRequest(_message.Message):
    __slots__ = ("table", "writer_id", "num_chunks", "wait_seconds", "waited_seconds")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    WRITER_ID_FIELD_NUMBER: _ClassVar[int]
    NUM_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WAITED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    table: str
    writer_id: str
    num_chunks: int
    wait_seconds: float
    waited_seconds: float
    def __init__(self, table: _Optional[str] = ..., writer_id: _Optional[str] = ..., num_chunks: _Optional[int] = ..., wait_seconds: _Optional[float] = ..., waited_seconds: _Optional[float] = ...) -> None: ...

class ReserveReply(_message.Message):
    __slots__ = ("num_chunks", "state")
    NUM_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    num_chunks: int
    state: TableState
    def __init__(self, num_chunks: _Optional[int] = ..., state: _Optional[_Union[TableState, _Mapping]] = ...) -> None: ...

class AdmitRequest(_message.Message):
    __slots__ = ("table", "num_samples", "wait_seconds")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    table: str
    num_samples: int
    wait_seconds: float
    def __init__(self, table: _Optional[str] = ..., num_samples: _Optional[int] = ..., wait_seconds: _Optional[float] = ...) -> None: ...

class AdmitReply(_message.Message):
    __slots__ = ("num_admitted", "state")
    NUM_ADMITTED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    num_admitted: int
    state: TableState
    def __init__(self, num_admitted: _Optional[int] = ..., state: _Optional[_Union[TableState, _Mapping]] = ...) -> None: ...

class View(_message.Message):
    __slots__ = ("n_step", "stack", "gamma", "clip_rewards", "stack_fill")
    N_STEP_FIELD_NUMBER: _ClassVar[int]
    STACK_FIELD_NUMBER: _ClassVar[int]
    GAMMA_FIELD_NUMBER: _ClassVar[int]
    CLIP_REWARDS_FIELD_NUMBER: _ClassVar[int]
    STACK_FILL_FIELD_NUMBER: _ClassVar[int]
    n_step: int
    stack: int
    gamma: float
    clip_rewards: bool
    stack_fill: str
    def __init__(self, n_step: _Optional[int] = ..., stack: _Optional[int] = ..., gamma: _Optional[float] = ..., clip_rewards: bool = ..., stack_fill: _Optional[str] = ...) -> None: ...

class SampleRequest(_message.Message):
    __slots__ = ("table", "batch_size", "view", "max_priority", "packed", "keys_only", "draw_seed")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    MAX_PRIORITY_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    KEYS_ONLY_FIELD_NUMBER: _ClassVar[int]
    DRAW_SEED_FIELD_NUMBER: _ClassVar[int]
    table: str
    batch_size: int
    view: View
    max_priority: float
    packed: bool
    keys_only: bool
    draw_seed: int
    def __init__(self, table: _Optional[str] = ..., batch_size: _Optional[int] = ..., view: _Optional[_Union[View, _Mapping]] = ..., max_priority: _Optional[float] = ..., packed: bool = ..., keys_only: bool = ..., draw_seed: _Optional[int] = ...) -> None: ...

class SampleReply(_message.Message):
    __slots__ = ("columns", "state", "packed_codec", "packed_frames")
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PACKED_CODEC_FIELD_NUMBER: _ClassVar[int]
    PACKED_FRAMES_FIELD_NUMBER: _ClassVar[int]
    columns: bytes
    state: TableState
    packed_codec: str
    packed_frames: bytes
    def __init__(self, columns: _Optional[bytes] = ..., state: _Optional[_Union[TableState, _Mapping]] = ..., packed_codec: _Optional[str] = ..., packed_frames: _Optional[bytes] = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ("table",)
    TABLE_FIELD_NUMBER: _ClassVar[int]
    table: str
    def __init__(self, table: _Optional[str] = ...) -> None: ...

class AttachReply(_message.Message):
    __slots__ = ("pid", "descriptor", "token", "num_bytes", "num_slots", "incarnation", "local_address", "annotation_width")
    PID_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTOR_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    NUM_SLOTS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LOCAL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ANNOTATION_WIDTH_FIELD_NUMBER: _ClassVar[int]
    pid: int
    descriptor: int
    token: bytes
    num_bytes: int
    num_slots: int
    incarnation: int
    local_address: str
    annotation_width: int
    def __init__(self, pid: _Optional[int] = ..., descriptor: _Optional[int] = ..., token: _Optional[bytes] = ..., num_bytes: _Optional[int] = ..., num_slots: _Optional[int] = ..., incarnation: _Optional[int] = ..., local_address: _Optional[str] = ..., annotation_width: _Optional[int] = ...) -> None: ...

class UpdatePrioritiesRequest(_message.Message):
    __slots__ = ("table", "columns", "max_priority")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    MAX_PRIORITY_FIELD_NUMBER: _ClassVar[int]
    table: str
    columns: bytes
    max_priority: float
    def __init__(self, table: _Optional[str] = ..., columns: _Optional[bytes] = ..., max_priority: _Optional[float] = ...) -> None: ...

class UpdatePrioritiesReply(_message.Message):
    __slots__ = ("num_stale", "state")
    NUM_STALE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    num_stale: int
    state: TableState
    def __init__(self, num_stale: _Optional[int] = ..., state: _Optional[_Union[TableState, _Mapping]] = ...) -> None: ...

class AnnotateRequest(_message.Message):
    __slots__ = ("table", "columns")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    table: str
    columns: bytes
    def __init__(self, table: _Optional[str] = ..., columns: _Optional[bytes] = ...) -> None: ...

class AnnotateReply(_message.Message):
    __slots__ = ("num_stale", "state")
    NUM_STALE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    num_stale: int
    state: TableState
    def __init__(self, num_stale: _Optional[int] = ..., state: _Optional[_Union[TableState, _Mapping]] = ...) -> None: ...

class ScanCursor(_message.Message):
    __slots__ = ("generation", "offset", "last_generation")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LAST_GENERATION_FIELD_NUMBER: _ClassVar[int]
    generation: int
    offset: int
    last_generation: int
    def __init__(self, generation: _Optional[int] = ..., offset: _Optional[int] = ..., last_generation: _Optional[int] = ...) -> None: ...

class ScanRequest(_message.Message):
    __slots__ = ("table", "view", "batch_size", "cursor", "only_missing", "packed")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    ONLY_MISSING_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    table: str
    view: View
    batch_size: int
    cursor: ScanCursor
    only_missing: bool
    packed: bool
    def __init__(self, table: _Optional[str] = ..., view: _Optional[_Union[View, _Mapping]] = ..., batch_size: _Optional[int] = ..., cursor: _Optional[_Union[ScanCursor, _Mapping]] = ..., only_missing: bool = ..., packed: bool = ...) -> None: ...

class ScanReply(_message.Message):
    __slots__ = ("sample", "cursor", "ended")
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    sample: SampleReply
    cursor: ScanCursor
    ended: bool
    def __init__(self, sample: _Optional[_Union[SampleReply, _Mapping]] = ..., cursor: _Optional[_Union[ScanCursor, _Mapping]] = ..., ended: bool = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ("table", "n_step", "known_revision", "wait_seconds")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    N_STEP_FIELD_NUMBER: _ClassVar[int]
    KNOWN_REVISION_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    table: str
    n_step: int
    known_revision: int
    wait_seconds: float
    def __init__(self, table: _Optional[str] = ..., n_step: _Optional[int] = ..., known_revision: _Optional[int] = ..., wait_seconds: _Optional[float] = ...) -> None: ...

class StatsReply(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: TableState
    def __init__(self, state: _Optional[_Union[TableState, _Mapping]] = ...) -> None: ...

class SeedRequest(_message.Message):
    __slots__ = ("table", "log_directory", "shard_index", "num_shards", "newest_transitions")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    LOG_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    SHARD_INDEX_FIELD_NUMBER: _ClassVar[int]
    NUM_SHARDS_FIELD_NUMBER: _ClassVar[int]
    NEWEST_TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    table: str
    log_directory: str
    shard_index: int
    num_shards: int
    newest_transitions: int
    def __init__(self, table: _Optional[str] = ..., log_directory: _Optional[str] = ..., shard_index: _Optional[int] = ..., num_shards: _Optional[int] = ..., newest_transitions: _Optional[int] = ...) -> None: ...

class SeedReply(_message.Message):
    __slots__ = ("num_transitions", "state")
    NUM_TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    num_transitions: int
    state: TableState
    def __init__(self, num_transitions: _Optional[int] = ..., state: _Optional[_Union[TableState, _Mapping]] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("cancel",)
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    cancel: bool
    def __init__(self, cancel: bool = ...) -> None: ...

class DrainReply(_message.Message):
    __slots__ = ("states",)
    class StatesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: TableState
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[TableState, _Mapping]] = ...) -> None: ...
    STATES_FIELD_NUMBER: _ClassVar[int]
    states: _containers.MessageMap[str, TableState]
    def __init__(self, states: _Optional[_Mapping[str, TableState]] = ...) -> None: ...

class InspectRequest(_message.Message):
    __slots__ = ("table", "view", "num_windows")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    NUM_WINDOWS_FIELD_NUMBER: _ClassVar[int]
    table: str
    view: View
    num_windows: int
    def __init__(self, table: _Optional[str] = ..., view: _Optional[_Union[View, _Mapping]] = ..., num_windows: _Optional[int] = ...) -> None: ...

class InspectReply(_message.Message):
    __slots__ = ("state", "tables", "reserved_bytes", "held_bytes", "priorities", "ages", "stalest_policy_version", "newest_policy_version", "windows")
    STATE_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    RESERVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    HELD_BYTES_FIELD_NUMBER: _ClassVar[int]
    PRIORITIES_FIELD_NUMBER: _ClassVar[int]
    AGES_FIELD_NUMBER: _ClassVar[int]
    STALEST_POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    NEWEST_POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    state: TableState
    tables: _containers.RepeatedScalarFieldContainer[str]
    reserved_bytes: int
    held_bytes: int
    priorities: bytes
    ages: bytes
    stalest_policy_version: int
    newest_policy_version: int
    windows: bytes
    def __init__(self, state: _Optional[_Union[TableState, _Mapping]] = ..., tables: _Optional[_Iterable[str]] = ..., reserved_bytes: _Optional[int] = ..., held_bytes: _Optional[int] = ..., priorities: _Optional[bytes] = ..., ages: _Optional[bytes] = ..., stalest_policy_version: _Optional[int] = ..., newest_policy_version: _Optional[int] = ..., windows: _Optional[bytes] = ...) -> None: ...
