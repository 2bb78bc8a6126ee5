#include "sha256.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <stdexcept>

#include "check.h"
#include "cpu.h"
#if TALLYSTICK_X86
#include <immintrin.h>
#endif

namespace tallystick {
namespace {

constexpr std::size_t kMaxLanes = 16;

alignas(64) constexpr std::uint32_t kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
constexpr std::uint32_t kInitial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

#include "sha256_scalar.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push  // false alarms of gcc 12 about its own _mm512 intrinsics (gcc bug 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#if TALLYSTICK_X86
#include "sha256_ni.h"
TALLYSTICK_AVX2_BEGIN
#define LEVEL avx2
#define LANES 8
#include "sha256_lanes.h"
TALLYSTICK_TARGET_END
TALLYSTICK_AVX512_BEGIN
#define LEVEL avx512
#define LANES 16
#include "sha256_lanes.h"
TALLYSTICK_TARGET_END
#endif
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

// ---- Which implementation ----

struct Kernel {
    const char* name;
    Level level;        // lowest level that may run it
    bool sha;           // needs SHA-NI
    std::size_t lanes;  // streams at once
    std::size_t worth;  // from this many messages on it beats the kernels below it, idle lanes included
    void (*blocks)(std::uint32_t* state, const std::uint8_t* const* p, std::size_t count);
    void (*rows32)(std::uint8_t prefix, const std::uint8_t* in, std::uint8_t* out);  // null: through blocks
    void (*rows64)(std::uint8_t prefix, const std::uint8_t* in, std::uint8_t* out);
};

// Widest first; the last one takes any number of messages.  The first two race each other (sha_ni_wins).
constexpr Kernel kKernels[] = {
#if TALLYSTICK_X86
    {"avx512x16", Level::avx512, false, 16, 12, &avx512::blocks, &avx512::rows<32>, &avx512::rows<64>},
    {"ni4", Level::avx2, true, 4, 3, &ni::blocks<4>, &ni::rows<4, 32>, &ni::rows<4, 64>},
    {"ni2", Level::avx2, true, 2, 2, &ni::blocks<2>, &ni::rows<2, 32>, &ni::rows<2, 64>},
    {"ni1", Level::avx2, true, 1, 1, &ni::blocks<1>, &ni::rows<1, 32>, &ni::rows<1, 64>},
    {"avx2x8", Level::avx2, false, 8, 3, &avx2::blocks, &avx2::rows<32>, &avx2::rows<64>},
#endif
    {"scalar", Level::scalar, false, 1, 1, &scalar::blocks, nullptr, nullptr},
};

std::atomic<const Kernel*> forced{nullptr};

bool allowed(const Kernel& kernel) { return kernel.level <= cpu_level() && (!kernel.sha || cpu_has_sha()); }

#if TALLYSTICK_X86
// Seconds that a kernel takes for 16 blocks in each of 16 streams.
double race(const Kernel& kernel) {
    static const std::uint8_t data[16 * 64] = {};
    std::uint32_t state[8 * kMaxLanes] = {};
    const std::uint8_t* p[kMaxLanes];
    for (const std::uint8_t*& stream : p) stream = data;
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t i = 0; i < kMaxLanes; i += kernel.lanes) kernel.blocks(state, p, 16);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Whether SHA-NI beats 16 lanes of AVX-512 is up to the CPU: it does by a quarter on Zen 4, not on Zen 5. The
// first call that could use both lets them race, for about 0.1 ms.
bool sha_ni_wins() {
    static const bool wins = [] {
        double best[2] = {1, 1};
        for (int i = 0; i < 8; ++i)
            for (int k = 0; k < 2; ++k) best[k] = std::min(best[k], race(kKernels[k]));
        return best[1] < best[0];
    }();
    return wins;
}

bool preferred(const Kernel& kernel) {
    return allowed(kernel) && !(kernel.level == Level::avx512 && cpu_has_sha() && sha_ni_wins());
}
#else
bool preferred(const Kernel& kernel) { return allowed(kernel); }
#endif

// full: with no idle lanes.
const Kernel& choose_kernel(std::size_t messages, bool full) {
    if (const Kernel* kernel = forced.load(std::memory_order_relaxed)) return *kernel;
    const Kernel* kernel = kKernels;
    while ((full ? kernel->lanes : kernel->worth) > messages || !preferred(*kernel)) ++kernel;
    return *kernel;
}

// ---- Messages to blocks ----

std::size_t block_count(std::size_t size) {
    return (size + 73) / 64;
}  // prefix, bytes, 0x80, 8 bytes of length

// Cuts a message, its prefix and its padding into 64-byte blocks: in place where they lie in one piece, put
// together in scratch elsewhere.
class Stream {
  public:
    void start(const Message& message) {
        piece_ = message.piece, at_ = message.offset, left_ = message.size;
        bits_ = (std::uint64_t{message.size} + 1) * 8;
        prefix_ = message.prefix, first_ = true, ended_ = false, in_place_ = false;
    }

    // The next blocks; *count says how many of them lie there.
    const std::uint8_t* next(std::size_t* count) {
        in_place_ = !first_ && run() >= 64;
        if (in_place_) {
            *count = run() / 64;
            return piece_->data + at_;
        }
        *count = 1;
        assemble();
        return scratch_;
    }

    void advance(std::size_t count) {
        if (in_place_) at_ += 64 * count, left_ -= 64 * count;
    }

  private:
    // Bytes of the message from here on that lie in one piece; 0 only at its end.
    std::size_t run() {
        while (left_ && at_ == piece_->size) ++piece_, at_ = 0;
        return left_ ? std::min(left_, piece_->size - at_) : 0;
    }

    void assemble() {
        std::size_t filled = 0;
        if (first_) scratch_[filled++] = prefix_, first_ = false;
        while (filled < 64 && left_) {
            const std::size_t take = std::min(run(), 64 - filled);
            std::memcpy(scratch_ + filled, piece_->data + at_, take);
            at_ += take, left_ -= take, filled += take;
        }
        if (filled == 64) return;
        if (!ended_) scratch_[filled++] = 0x80, ended_ = true;
        std::memset(scratch_ + filled, 0, 64 - filled);
        if (filled > 56) return;  // the length takes one more block
        for (int i = 0; i < 8; ++i) scratch_[56 + i] = static_cast<std::uint8_t>(bits_ >> (56 - 8 * i));
    }

    const Piece* piece_;
    std::size_t at_, left_;
    std::uint64_t bits_;
    std::uint8_t prefix_;
    bool first_, ended_, in_place_;
    alignas(64) std::uint8_t scratch_[64];
};

// n <= kernel.lanes messages of the same number of blocks.  Idle lanes repeat the last message.
void hash_group(const Kernel& kernel, const Message* messages, std::size_t n, std::uint8_t* out) {
    VERIFY(n >= 1 && n <= kernel.lanes);
    const std::size_t lanes = kernel.lanes;
    Stream streams[kMaxLanes];
    alignas(64) std::uint32_t state[8 * kMaxLanes];
    const std::uint8_t* p[kMaxLanes];
    for (std::size_t i = 0; i < n; ++i) streams[i].start(messages[i]);
    for (std::size_t i = 0; i < 8 * lanes; ++i) state[i] = kInitial[i / lanes];
    for (std::size_t left = block_count(messages[0].size), step; left; left -= step) {
        step = left;
        for (std::size_t i = 0; i < n; ++i) {
            std::size_t count;
            p[i] = streams[i].next(&count);
            step = std::min(step, count);
        }
        for (std::size_t i = n; i < lanes; ++i) p[i] = p[n - 1];
        kernel.blocks(state, p, step);
        for (std::size_t i = 0; i < n; ++i) streams[i].advance(step);
    }
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t w = 0; w < 8; ++w)
            for (std::size_t b = 0; b < 4; ++b)
                *out++ = static_cast<std::uint8_t>(state[w * lanes + i] >> (24 - 8 * b));
}

// n <= kMaxLanes rows of any width.
void hash_rows(std::uint8_t prefix, const std::uint8_t* rows, std::size_t width, std::size_t n,
               std::uint8_t* out) {
    Piece pieces[kMaxLanes];
    Message messages[kMaxLanes];
    for (std::size_t i = 0; i < n; ++i) {
        pieces[i] = {rows + width * i, width};
        messages[i] = {prefix, &pieces[i], 0, width};
    }
    sha256(messages, n, out);
}

}  // namespace

void sha256(const Message* messages, std::size_t n, std::uint8_t* out) {
    for (std::size_t i = 0; i < n;) {
        const std::size_t blocks = block_count(messages[i].size), limit = std::min(n, i + kMaxLanes);
        std::size_t same = i + 1;
        while (same < limit && block_count(messages[same].size) == blocks) ++same;
        const Kernel& kernel = choose_kernel(same - i, false);
        const std::size_t count = std::min(same - i, kernel.lanes);
        hash_group(kernel, messages + i, count, out + kDigest * i);
        i += count;
    }
}

void sha256_rows(std::uint8_t prefix, const std::uint8_t* rows, std::size_t width, std::size_t n,
                 std::uint8_t* out) {
    while (n) {
        const Kernel& kernel = choose_kernel(n, true);
        const auto fast = width == 32 ? kernel.rows32 : width == 64 ? kernel.rows64 : nullptr;
        const bool whole = fast && n >= kernel.lanes;
        const std::size_t count = whole ? n - n % kernel.lanes : std::min(n, kMaxLanes);
        if (whole)
            for (std::size_t i = 0; i < count; i += kernel.lanes)
                fast(prefix, rows + width * i, out + kDigest * i);
        else
            hash_rows(prefix, rows, width, count, out);
        n -= count, rows += width * count, out += kDigest * count;
    }
}

std::vector<std::string> sha256_kernels() {
    std::vector<std::string> names;
    for (const Kernel& kernel : kKernels)
        if (allowed(kernel)) names.emplace_back(kernel.name);
    return names;
}

void sha256_force(const std::string& name) {
    const Kernel* found = nullptr;
    for (const Kernel& kernel : kKernels)
        if (name == kernel.name && allowed(kernel)) found = &kernel;
    if (!found && !name.empty())
        throw std::invalid_argument("no SHA-256 kernel '" + name + "' at this CPU level");
    forced = found;
}

}  // namespace tallystick
