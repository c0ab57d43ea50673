// The part of mixed.cpp that is compiled without exceptions, and with its symbols hidden but for these two.

#include "detached.hpp"

#if defined(__cpp_exceptions)
#error "compile with -fno-exceptions"
#endif

__attribute__((visibility("default"))) const std::error_category &category_there() { return dlock::category(); }

// The code is that of the first step that failed.
__attribute__((visibility("default"))) void lock_and_release(dlock::coroutine_queue &locks, dlock::mutex &mine,
                                                             std::error_code &code) {
    bool ended = false;
    const auto body = [&]() -> detached {
        (void)co_await locks.lock(mine, code);
        if (!code) {
            co_await locks.release(mine, code);
        }
        ended = true;
    };
    body();
    std::error_code closed;
    while (!ended && !closed) {
        locks.wait(std::chrono::seconds(1), closed);
    }
}
