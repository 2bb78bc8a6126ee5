// What launchers need around a kernel: errors as exceptions, memory that frees itself, the right device, a
// grid.
#pragma once
#include <algorithm>  // for min
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "dev.h"

namespace tallystick::cuda {

inline void check(cudaError_t error, const char* what) {
    if (error != cudaSuccess)
        throw std::runtime_error(std::string("CUDA could not ") + what + ": " + cudaGetErrorString(error));
}

// `count` values of T in device memory, returned to the stream's pool when the work queued so far is done.
template <class T>
class Buffer {
  public:
    Buffer(std::size_t count, cudaStream_t stream) : count_(count), stream_(stream) {
        void* memory = nullptr;
        const cudaError_t error = cudaMallocAsync(&memory, count * sizeof(T), stream);
        if (error != cudaSuccess) {
            cudaGetLastError();  // or the next launch would report it again
            const std::string what = "allocate " + std::to_string(count * sizeof(T)) + " bytes";
            check(error, what.c_str());
        }
        data_ = static_cast<T*>(memory);
    }
    ~Buffer() { cudaFreeAsync(data_, stream_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    T* data() const { return data_; }
    void clear() { check(cudaMemsetAsync(data_, 0, count_ * sizeof(T), stream_), "clear memory"); }
    void set(const T* host) {
        check(cudaMemcpyAsync(data_, host, count_ * sizeof(T), cudaMemcpyHostToDevice, stream_),
              "copy to the device");
    }
    void get(T* host) const {  // there once the stream has been synchronised
        check(cudaMemcpyAsync(host, data_, count_ * sizeof(T), cudaMemcpyDeviceToHost, stream_),
              "copy from the device");
    }

  private:
    T* data_;
    std::size_t count_;
    cudaStream_t stream_;
};

// The device that holds `address` is the current one of this host thread while the guard lives.
class DeviceGuard {
  public:
    explicit DeviceGuard(std::uint64_t address) {
        check(cudaGetDevice(&before_), "find the current device");
        cudaPointerAttributes attributes;
        check(cudaPointerGetAttributes(&attributes, reinterpret_cast<const void*>(address)),
              "tell whose an address is");
        if (attributes.type != cudaMemoryTypeDevice && attributes.type != cudaMemoryTypeManaged)
            throw std::invalid_argument(
                "rows in device memory expected, but an address is not one of a device");
        device_ = attributes.device;
        if (device_ != before_) check(cudaSetDevice(device_), "change devices");
    }
    ~DeviceGuard() {
        if (device_ != before_) cudaSetDevice(before_);
    }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

    // Blocks for `items` threads' worth of work: a few for each processor, which loop over the rest.
    unsigned grid(std::size_t items, unsigned block) const {
        constexpr unsigned kBlocksPerProcessor = 16;
        int processors = 1;
        check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device_),
              "ask for the processors");
        const std::size_t most = std::size_t{kBlocksPerProcessor} * static_cast<unsigned>(processors);
        return static_cast<unsigned>(std::min(most, (items + block - 1) / block));
    }

  private:
    int before_ = 0, device_ = 0;
};

}  // namespace tallystick::cuda
