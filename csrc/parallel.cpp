#include "parallel.h"

#include <pthread.h>  // for pthread_atfork
#include <unistd.h>
#if defined(__linux__)
#include <sched.h>  // for sched_getaffinity
#endif

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>  // for getenv, strtol
#include <exception>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace tallystick {
namespace {

constexpr int kMaxThreads = 1024;

int checked_count(long count, const char* origin) {
    if (count < 1 || count > kMaxThreads)
        throw std::invalid_argument(std::string(origin) + ": a number of threads from 1 to " +
                                    std::to_string(kMaxThreads) + " expected, got " + std::to_string(count));
    return static_cast<int>(count);
}

int default_threads() {
    for (const char* name : {"TALLYSTICK_THREADS", "OMP_NUM_THREADS"}) {
        const char* text = std::getenv(name);
        if (!text || !*text) continue;
        char* end = nullptr;
        const long count = std::strtol(text, &end, 10);
        if (name[0] == 'T') {
            if (*end)
                throw std::invalid_argument(std::string(name) + ": a whole number expected, got '" + text +
                                            "'");
            return checked_count(count, name);
        }
        if (count >= 1) return static_cast<int>(std::min<long>(count, kMaxThreads));  // "4,2" means 4 outside
    }
#if defined(__linux__)
    cpu_set_t set;
    CPU_ZERO(&set);
    if (!sched_getaffinity(0, sizeof set, &set)) return std::max(1, std::min(CPU_COUNT(&set), kMaxThreads));
#endif
    return std::max(1, std::min<int>(static_cast<int>(std::thread::hardware_concurrency()), kMaxThreads));
}

using Task = std::function<void(std::size_t)>;

// One set of worker threads. Never destroyed while its threads run, and leaked in a forked child.
class Workers {
  public:
    explicit Workers(int count) {
        for (int i = 0; i < count; ++i) threads_.emplace_back([this] { work(); });
    }
    ~Workers() {
        {
            std::lock_guard lock(mutex_);
            stop_ = true;
        }
        wake_.notify_all();
        for (auto& thread : threads_) thread.join();
    }
    std::size_t size() const { return threads_.size(); }

    // task must not throw.
    void run(std::size_t chunks, const Task& task) {
        {
            std::lock_guard lock(mutex_);
            task_ = &task;
            chunks_ = chunks;
            next_.store(0, std::memory_order_relaxed);
            active_ = threads_.size();
            ++epoch_;
        }
        wake_.notify_all();
        take(task, chunks);
        std::unique_lock lock(mutex_);
        done_.wait(lock, [this] { return active_ == 0; });
    }

  private:
    void take(const Task& task, std::size_t chunks) {
        for (std::size_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < chunks;) task(i);
    }
    void work();

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    const Task* task_ = nullptr;
    std::size_t chunks_ = 0, active_ = 0;
    std::atomic<std::size_t> next_{0};
    unsigned epoch_ = 0;
    bool stop_ = false;
    std::vector<std::thread> threads_;
};

thread_local bool inside_pool = false;

void Workers::work() {
    inside_pool = true;
    unsigned seen = 0;
    for (;;) {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stop_ || epoch_ != seen; });
        if (stop_) return;
        seen = epoch_;
        const Task* task = task_;
        const std::size_t chunks = chunks_;
        lock.unlock();
        take(*task, chunks);
        lock.lock();
        if (--active_ == 0) done_.notify_one();
    }
}

// The pool's state; reached through a pointer that is never freed, so that no destructor runs at exit
// while a daemon thread still computes.
struct Pool {
    std::mutex caller;  // held by the one caller that uses the workers
    Workers* workers = nullptr;
    std::atomic<int> threads{0};  // 0: not chosen yet
};

Pool& pool() {
    static Pool* instance = [] {
        auto* created = new Pool;
        pthread_atfork(nullptr, nullptr, [] {
            Pool& inherited = pool();
            inherited.workers = nullptr;         // the parent's threads do not exist here
            new (&inherited.caller) std::mutex;  // may have been held by another thread of the parent
            inside_pool = false;
        });
        return created;
    }();
    return *instance;
}

}  // namespace

int num_threads() {
    Pool& p = pool();
    int count = p.threads.load(std::memory_order_relaxed);
    if (count == 0) {
        count = default_threads();
        p.threads.store(count, std::memory_order_relaxed);
    }
    return count;
}

void set_num_threads(int count) {
    pool().threads.store(checked_count(count, "set_num_threads"), std::memory_order_relaxed);
}

void parallel_for(std::size_t size, std::size_t grain,
                  const std::function<void(std::size_t, std::size_t)>& body) {
    if (size == 0) return;
    grain = std::max<std::size_t>(grain, 1);
    const std::size_t blocks = (size - 1) / grain + 1;
    const auto threads = static_cast<std::size_t>(num_threads());
    Pool& p = pool();
    std::unique_lock<std::mutex> caller(p.caller, std::defer_lock);
    if (threads == 1 || blocks == 1 || inside_pool || !caller.try_lock()) return body(0, size);
    if (!p.workers || p.workers->size() != threads - 1) {
        delete p.workers;
        p.workers = nullptr;
        p.workers = new Workers(static_cast<int>(threads) - 1);
    }
    const std::size_t chunks = std::min(blocks, threads * 4);  // a few per thread evens out noisy neighbours
    std::exception_ptr error;
    std::mutex error_mutex;
    const Task task = [&](std::size_t i) {
        const std::size_t lo = blocks * i / chunks * grain;
        const std::size_t hi = std::min(size, blocks * (i + 1) / chunks * grain);
        try {
            body(lo, hi);
        } catch (...) {
            std::lock_guard lock(error_mutex);
            if (!error) error = std::current_exception();
        }
    };
    inside_pool = true;  // the caller's own nested calls run inline
    p.workers->run(chunks, task);
    inside_pool = false;
    if (error) std::rethrow_exception(error);
}

}  // namespace tallystick
