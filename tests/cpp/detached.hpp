// A coroutine that begins at once, and that nobody waits for or destroys.
#ifndef DETACHED_HPP
#define DETACHED_HPP

#include <dlock.hpp>

#include <cstdlib>

struct detached {
    struct promise_type {
        detached get_return_object() { return {}; }
        std::suspend_never initial_suspend() noexcept { return {}; }
        std::suspend_never final_suspend() noexcept { return {}; }
        void return_void() {}
        void unhandled_exception() { std::abort(); }
    };
};

#endif
