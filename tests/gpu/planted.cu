// Does the emulator see what it claims to see? A block scan with shared memory, barriers, shuffles, ballot
// and atomics, run clean or with one planted mistake: planted <mistake>. Exit code 0: the results are right;
// 1: they are wrong; 2: the emulator refused, with its words on stderr; anything else: a sanitizer's verdict.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "dev.h"

namespace {

constexpr int kBlock = 96;
constexpr int kBlocks = 3;
constexpr int kWarps = kBlock / 32;
constexpr unsigned kAll = 0xffffffffu;

enum Mistake {
    none,
    missing_barrier,
    divergent_barrier,
    early_exit,
    lane_outside_mask,
    divergent_shuffle,
    global_overrun,
    shared_overrun,
    race_between_blocks,
    missing_synchronise,
    too_many_threads,
};
const char* const kNames[] = {"none",
                              "missing_barrier",
                              "divergent_barrier",
                              "early_exit",
                              "lane_outside_mask",
                              "divergent_shuffle",
                              "global_overrun",
                              "shared_overrun",
                              "race_between_blocks",
                              "missing_synchronise",
                              "too_many_threads"};

// out[i] = x[first of the block] + ... + x[i]; total[0] += sum of all; odd[0] += number of odd values
__global__ void scan_kernel(const int* x, int* out, int* total, unsigned* odd, Mistake mistake) {
    TALLYSTICK_SHARED(int, warp_sum, kWarps);
    TALLYSTICK_DYN_SHARED(int, whole);
    const int i = static_cast<int>(threadIdx.x), lane = i & 31, warp = i / 32;
    const int j = static_cast<int>(blockIdx.x) * kBlock + i;
    int sum = x[j];
    if (mistake == early_exit && i == 70) return;
    const unsigned votes = __ballot_sync(mistake == lane_outside_mask ? 0x7fffffffu : kAll, sum & 1);
    if (lane == 0) atomicAdd(odd, static_cast<unsigned>(__popc(votes)));
    if (mistake == divergent_shuffle && lane < 5) __syncwarp();
    for (int by = 1; by < 32; by *= 2) {
        const int below = __shfl_up_sync(kAll, sum, by);
        if (lane >= by) sum += below;
    }
    if (lane == 31) warp_sum[mistake == shared_overrun ? warp + 1 : warp] = sum;
    if (mistake == divergent_barrier) {
        if (warp == 1) __syncthreads();
    } else if (mistake != missing_barrier) {
        __syncthreads();
    }
    for (int w = 0; w < warp; ++w) sum += warp_sum[w];
    whole[i] = sum;
    __syncthreads();
    out[mistake == global_overrun ? j + 1 : j] = whole[i];
    if (i == kBlock - 1) {
        if (mistake == race_between_blocks)
            *total += sum;
        else
            atomicAdd(total, sum);
    }
}

int run(Mistake mistake) {
    constexpr int n = kBlock * kBlocks;
    std::vector<int> x(n), expected(n), out(n, -1);
    int sum = 0, total = 0, expected_total = 0;
    unsigned odd = 0, expected_odd = 0;
    for (int j = 0; j < n; ++j) {
        x[j] = (j * 37) % 101;
        if (j % kBlock == 0) sum = 0;
        expected[j] = sum += x[j];
        expected_total += x[j];
        expected_odd += x[j] & 1;
    }
    int* result = out.data();
    const int threads = mistake == too_many_threads ? 2048 : kBlock;
    TALLYSTICK_LAUNCH((scan_kernel), dim3(kBlocks), dim3(threads), kBlock * sizeof(int), nullptr, x.data(),
                      result, &total, &odd, mistake);
    if (cudaGetLastError() != cudaSuccess) throw cuemu::Error("the launch was refused");
    if (mistake != missing_synchronise) cudaStreamSynchronize(nullptr);
    const bool right = out == expected && total == expected_total && odd == expected_odd;
    cudaStreamSynchronize(nullptr);
    return right ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
    try {
        for (int m = none; m <= too_many_threads; ++m)
            if (count == 2 && std::strcmp(arguments[1], kNames[m]) == 0) return run(static_cast<Mistake>(m));
    } catch (const cuemu::Error& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 2;
    }
    std::fprintf(stderr, "planted <mistake>\n");
    return 3;
}
