// Coroutines (C++20) that wait for a lock without a thread each, and the loop that resumes them.
//
//     ./coroutine [url]
#include <dlock.hpp>

#include <exception>
#include <iostream>
#include <poll.h>
#include <vector>

// The least that a coroutine needs: it begins at once, ends by itself, and keeps what it threw for the loop. Programs have
// such a type, from a library or of their own; dlock brings none.
struct worker {
    struct promise_type {
        worker get_return_object() { return {}; }
        std::suspend_never initial_suspend() noexcept { return {}; }
        std::suspend_never final_suspend() noexcept { return {}; }
        void return_void() {}
        void unhandled_exception() { std::rethrow_exception(std::current_exception()); }
    };
};

static int finished = 0;

static worker work(int number, dlock::coroutine_queue &locks, dlock::mutex &mine) {
    const std::uint64_t token = co_await locks.lock(mine);
    std::cout << "worker " << number << " has token " << token << '\n';
    co_await locks.release(mine);
    ++finished;
}

int main(int argc, char **argv) {
    constexpr int workers = 5;
    try {
        dlock::locker locker(argc > 1 ? argv[1] : "redis://localhost:6379");
        dlock::coroutine_queue locks(locker);
        std::vector<dlock::mutex> mutexes;
        for (int i = 0; i < workers; ++i) {
            mutexes.emplace_back(locker, "coroutine", "examples");
        }
        for (int i = 0; i < workers; ++i) {
            work(i, locks, mutexes[static_cast<std::size_t>(i)]);
        }
        // The descriptor would be one of many in an event loop.
        pollfd descriptor = {locks.fd(), POLLIN, 0};
        while (finished < workers) {
            if (poll(&descriptor, 1, 10'000) != 1) {
                std::cerr << "nothing happened for ten seconds\n";
                return 1;
            }
            locks.poll();
        }
        std::cout << finished << " workers, one thread\n";
        return 0;
    } catch (const dlock::error &error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
