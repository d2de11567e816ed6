/* The loops over bytes that NumPy and the LZ4 package cannot do in one call; see upcycle/experience/kernels.py.
 *
 * No function here allocates, keeps state, or touches Python, so callers run them with Python's lock released. LZ4
 * itself stays the lz4 package's: its functions are handed in as pointers.
 */
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

typedef int (*decode_function)(const char *block, char *out, int block_bytes, int out_bytes, const char *dictionary,
                               int dictionary_bytes);                       /* LZ4_decompress_safe_usingDict */
typedef void (*reset_function)(void *stream);                               /* LZ4_resetStream_fast */
typedef int (*encode_function)(void *stream, const char *in, char *out, int in_bytes, int out_bytes,
                               int acceleration);                           /* LZ4_compress_fast_continue */

enum { SIZE_BYTES = 4 };

#ifndef SOURCE_CRC
#define SOURCE_CRC 0
#endif
const uint32_t upcycle_source_crc = SOURCE_CRC; /* of this file when it was built: native_kernels.py refuses others */

#define STORED 0x80000000u

/* Copies past the caches: what is written is a batch far larger than they are, and reading its old bytes into them
 * first would cost a third of the memory traffic. */
static void stream_copy(uint8_t *out, const uint8_t *in, int64_t bytes)
{
#if defined(__SSE2__)
    int64_t at = 0;
    for (; at < bytes && ((uintptr_t)(out + at) & 15); at++)
        out[at] = in[at];
    for (; at + 64 <= bytes; at += 64) {
        _mm_prefetch((const char *)(in + at + 512), _MM_HINT_NTA);
        __m128i a = _mm_loadu_si128((const __m128i *)(in + at));
        __m128i b = _mm_loadu_si128((const __m128i *)(in + at + 16));
        __m128i c = _mm_loadu_si128((const __m128i *)(in + at + 32));
        __m128i d = _mm_loadu_si128((const __m128i *)(in + at + 48));
        _mm_stream_si128((__m128i *)(out + at), a);
        _mm_stream_si128((__m128i *)(out + at + 16), b);
        _mm_stream_si128((__m128i *)(out + at + 32), c);
        _mm_stream_si128((__m128i *)(out + at + 48), d);
    }
    memcpy(out + at, in + at, (size_t)(bytes - at));
#else
    memcpy(out, in, (size_t)bytes);
#endif
}

/* Copies `count` pieces of `bytes` each, which begin at base + begins[i], one after another to `out`. */
void upcycle_copy_pieces(const uint8_t *base, const int64_t *begins, int64_t count, int64_t bytes, uint8_t *out,
                         int streaming)
{
    if (!streaming) {
        for (int64_t i = 0; i < count; i++)
            memcpy(out + i * bytes, base + begins[i], (size_t)bytes);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        stream_copy(out + i * bytes, base + begins[i], bytes);
#if defined(__SSE2__)
    _mm_sfence(); /* other threads see what was streamed before anything that is written later */
#endif
}

/* Copies `count` pieces of sizes[i] bytes, which begin at addresses[i], one after another to `out`. */
void upcycle_join_pieces(const int64_t *addresses, const int64_t *sizes, int64_t count, uint8_t *out)
{
    for (int64_t i = 0; i < count; i++) {
        memcpy(out, (const uint8_t *)(intptr_t)addresses[i], (size_t)sizes[i]);
        out += sizes[i];
    }
}

/* Reads a block's size; returns where its bytes begin, or 0 if it does not lie within `end`. */
static const uint8_t *block_at(const uint8_t *at, const uint8_t *end, int64_t frame_bytes, uint32_t *bytes)
{
    uint32_t size;
    if (end - at < SIZE_BYTES)
        return 0;
    memcpy(&size, at, SIZE_BYTES); /* little-endian, like every processor this is built for (kernels.py asks) */
    *bytes = size & ~STORED;
    if (*bytes == 0 || *bytes > frame_bytes || (*bytes == frame_bytes) != ((size & STORED) != 0))
        return 0;
    at += SIZE_BYTES;
    return end - at < (int64_t)*bytes ? 0 : at;
}

/* Finds the blocks of `rows` frames, which must fill the `size` bytes of `blob`: bounds[row] .. bounds[row + 1] is that of
 * a frame. Returns 0 if they do not. */
int64_t upcycle_find_blocks(const uint8_t *blob, int64_t size, int64_t rows, int64_t frame_bytes, int32_t *bounds)
{
    const uint8_t *at = blob, *end = blob + size;
    bounds[0] = 0;
    for (int64_t row = 0; row < rows; row++) {
        uint32_t bytes;
        const uint8_t *block = block_at(at, end, frame_bytes, &bytes);
        if (!block)
            return 0;
        at = block + bytes;
        bounds[row + 1] = (int32_t)(at - blob);
    }
    return at == end;
}

/* Decodes one run of blocks into `out`, [width, frame_bytes]; the last frame is repeated. Returns 0 if it is damaged.
 * Frames before the wanted ones, and those of their group, are decoded into `scratch`, [group, frame_bytes], since a
 * block refers to the frames just before it. */
static int unpack_run(decode_function decode, const uint8_t *at, const uint8_t *end, int64_t skip, int64_t present,
                      int64_t width, int64_t frame_bytes, int64_t group, uint8_t *scratch, uint8_t *out)
{
    for (int64_t row = 0; row < skip + present; row++) {
        uint32_t bytes;
        const uint8_t *block = block_at(at, end, frame_bytes, &bytes);
        int64_t first = row / group * group; /* of the frame's group */
        int aside = first < skip;
        uint8_t *frame = aside ? scratch + (row - first) * frame_bytes : out + (row - skip) * frame_bytes;
        int64_t before = (row - first) * frame_bytes;
        if (!block)
            return 0;
        if (bytes == frame_bytes)
            memcpy(frame, block, bytes);
        else if (decode((const char *)block, (char *)frame, (int)bytes, (int)frame_bytes,
                        (const char *)(frame - before), (int)before) != frame_bytes)
            return 0;
        if (aside && row >= skip)
            memcpy(out + (row - skip) * frame_bytes, frame, (size_t)frame_bytes);
        at = block + bytes;
    }
    for (int64_t row = present; row < width; row++)
        memcpy(out + row * frame_bytes, out + (present - 1) * frame_bytes, (size_t)frame_bytes);
    return at == end;
}

/* Decodes run i, the bytes begins[i] .. ends[i] of `blob`, into out[i], [width, frame_bytes]. Returns the number of the
 * first damaged run, or -1. The caller has made sure that the bounds lie in `blob` and 1 <= present[i] <= width. */
int64_t upcycle_unpack_runs(decode_function decode, const uint8_t *blob, const int64_t *begins, const int64_t *ends,
                            const int64_t *skips, const int64_t *present, int64_t count, int64_t width,
                            int64_t frame_bytes, int64_t group, uint8_t *scratch, uint8_t *out)
{
    for (int64_t i = 0; i < count; i++)
        if (!unpack_run(decode, blob + begins[i], blob + ends[i], skips[i], present[i], width, frame_bytes, group,
                        scratch, out + i * width * frame_bytes))
            return i;
    return -1;
}

/* Compresses frames, [rows, frame_bytes], into blocks with their sizes; bounds[row + 1] says where each ends. `out` has
 * room for rows x (SIZE_BYTES + bound_bytes), where the latter is LZ4_compressBound(frame_bytes): with less room LZ4 may
 * fail, and leave its stream unusable. */
void upcycle_pack_frames(reset_function reset, encode_function encode, void *stream, const uint8_t *frames,
                         int64_t rows, int64_t frame_bytes, int64_t bound_bytes, int64_t group, uint8_t *out,
                         int32_t *bounds)
{
    int64_t at = 0;
    bounds[0] = 0;
    for (int64_t row = 0; row < rows; row++) {
        const uint8_t *frame = frames + row * frame_bytes;
        if (row % group == 0)
            reset(stream);
        uint32_t bytes = (uint32_t)encode(stream, (const char *)frame, (char *)(out + at + SIZE_BYTES),
                                          (int)frame_bytes, (int)bound_bytes, 1);
        uint32_t size = bytes;
        if (bytes >= frame_bytes) { /* it did not get smaller */
            memcpy(out + at + SIZE_BYTES, frame, (size_t)frame_bytes);
            bytes = (uint32_t)frame_bytes;
            size = bytes | STORED;
        }
        memcpy(out + at, &size, SIZE_BYTES);
        at += SIZE_BYTES + (int64_t)bytes;
        bounds[row + 1] = (int32_t)at;
    }
}
