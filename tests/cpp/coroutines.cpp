// Coroutines that await locks: what they get, how they are stopped, what becomes of those that are destroyed.

#include "check.hpp"

#include <atomic>
#include <poll.h>

#if !defined(__cpp_impl_coroutine)
#error "this compiler has no coroutines"
#endif

using dlock::errc;

namespace {

// A coroutine that begins at once, and that whoever has the object destroys, if it has not ended before.
class task {
public:
    struct promise_type {
        bool *ended = nullptr;
        task get_return_object() { return task(std::coroutine_handle<promise_type>::from_promise(*this)); }
        std::suspend_never initial_suspend() noexcept { return {}; }
        std::suspend_always final_suspend() noexcept { return {}; }
        void return_void() {}
        void unhandled_exception() { throw; }
    };

    task(task &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    task &operator=(task &&) = delete;
    ~task() { destroy(); }

    bool done() const { return handle_.done(); }

    void destroy() {
        if (handle_) {
            std::exchange(handle_, nullptr).destroy();
        }
    }

private:
    explicit task(std::coroutine_handle<promise_type> handle) : handle_(handle) {}

    std::coroutine_handle<promise_type> handle_;
};

// Resumes until that is true.
template <class Condition>
bool run_until(dlock::coroutine_queue &locks, Condition condition) {
    return eventually([&] {
        if (!condition()) {
            locks.wait(1s);
        }
        return condition();
    });
}

// How many waiters the lock has on the server side is not asked: a mutex that is busy has submitted.
task hold_until(dlock::coroutine_queue &locks, dlock::mutex &mine, std::vector<std::uint64_t> &tokens) {
    tokens.push_back(co_await locks.lock(mine));
    co_await locks.release(mine);
}

} // namespace

CHECK("a hundred coroutines take turns on one thread, with rising tokens") {
    dlock::locker locker(url);
    dlock::coroutine_queue locks(locker);
    std::vector<dlock::mutex> mutexes;
    for (int i = 0; i < 100; ++i) {
        mutexes.emplace_back(locker, "turns", "coroutines");
    }
    std::vector<std::uint64_t> tokens;
    std::vector<task> tasks;
    for (auto &each : mutexes) {
        tasks.push_back(hold_until(locks, each, tokens));
    }
    EXPECT(run_until(locks, [&] { return tokens.size() == 100 && tasks.back().done(); }));
    EXPECT(run_until(locks, [&] {
        for (const auto &each : tasks) {
            if (!each.done()) {
                return false;
            }
        }
        return true;
    }));
    for (std::size_t i = 1; i < tokens.size(); ++i) {
        EXPECT(tokens[i] > tokens[i - 1]);
    }
    EXPECT(locks.poll() == 0);
}

CHECK("answers and failures reach the coroutine, thrown or in a code") {
    dlock::locker locker(url);
    dlock::coroutine_queue locks(locker);
    dlock::mutex mine(locker, "answers", "coroutines");
    dlock::mutex other(locker, "answers", "coroutines");
    const auto body = [&]() -> task {
        EXPECT(co_await locks.try_lock(mine));
        EXPECT(mine.owns_lock());
        EXPECT(!co_await locks.try_lock(other));
        EXPECT(!co_await locks.try_lock_for(other, 20ms));
        dlock::failure why;
        EXPECT(!co_await locks.try_lock_for(other, 20ms, why));
        EXPECT(!why);
        co_await locks.release(other, why);
        EXPECT(why.code() == errc::not_owner && !why.message().empty());
        std::error_code code;
        EXPECT(co_await locks.lock(mine, code) == 0);
        EXPECT(code == errc::already_held);
        try {
            (void)co_await locks.lock(mine);
            EXPECT(false);
        } catch (const dlock::error &error) {
            EXPECT(error.code() == errc::already_held && *error.what() != '\0');
        }
        co_await locks.release(mine, code);
        EXPECT(!code);
        try {
            co_await locks.release(mine);
            EXPECT(false);
        } catch (const dlock::error &error) {
            EXPECT(error.code() == errc::unlock_unlocked);
        }
        EXPECT(co_await locks.try_lock_for(other, 5s, code));
        EXPECT(other.owns_lock() && !code);
        co_await locks.release(other);
    };
    const task running = body();
    EXPECT(run_until(locks, [&] { return running.done(); }));
}

CHECK("a stop token ends an await, before, during, and not after") {
    dlock::locker locker(url);
    dlock::coroutine_queue locks(locker);
    dlock::mutex holder(locker, "stop", "coroutines");
    dlock::mutex waiter(locker, "stop", "coroutines");
    holder.lock();
    std::stop_source stop;
    int answers = 0;
    const auto body = [&](std::stop_token token) -> task {
        EXPECT(!co_await locks.lock(waiter, token));
        ++answers;
        std::error_code code = errc::lost;
        EXPECT(!co_await locks.lock(waiter, token, code));
        EXPECT(!code);
        ++answers;
    };
    const auto timed = [&](std::chrono::milliseconds timeout, std::stop_token token) -> task {
        EXPECT(!co_await locks.try_lock_for(waiter, timeout, token));
        std::error_code code = errc::lost;
        EXPECT(!co_await locks.try_lock_for(waiter, timeout, token, code));
        EXPECT(!code);
        ++answers;
    };
    const task running = body(stop.get_token());
    EXPECT(locks.wait(50ms) == 0 && answers == 0);
    stop.request_stop();
    EXPECT(run_until(locks, [&] { return running.done(); }));
    EXPECT(answers == 2);
    std::stop_source unused;
    const task by_time = timed(20ms, unused.get_token());
    EXPECT(run_until(locks, [&] { return by_time.done(); }));
    const task by_stop = timed(1h, stop.get_token());
    EXPECT(by_stop.done() && answers == 4);

    holder.unlock();
    std::stop_source late;
    const auto held = [&]() -> task { EXPECT(co_await locks.lock(waiter, late.get_token())); };
    const task holding = held();
    EXPECT(run_until(locks, [&] { return holding.done(); }));
    late.request_stop();
    EXPECT(waiter.owns_lock());
    waiter.unlock();
    const auto in_time = [&]() -> task { EXPECT(co_await locks.try_lock_for(waiter, 10s, unused.get_token())); };
    const task timed_holding = in_time();
    EXPECT(run_until(locks, [&] { return timed_holding.done(); }) && waiter.owns_lock());
    waiter.unlock();
    // Stopped before, nothing is waited for, and nothing taken.
    const task unheld = body(late.get_token());
    EXPECT(unheld.done() && answers == 6 && !waiter.is_locked());
}

CHECK("a coroutine that is destroyed while it awaits gives up its place, and what it got unseen") {
    dlock::locker locker(url);
    dlock::coroutine_queue locks(locker);
    dlock::mutex holder(locker, "destroyed", "coroutines");
    dlock::mutex waiter(locker, "destroyed", "coroutines");
    dlock::mutex next(locker, "destroyed", "coroutines");
    std::vector<std::uint64_t> tokens;
    holder.lock();
    {
        const task waiting = hold_until(locks, waiter, tokens);
        EXPECT(is_busy(waiter));
    }
    EXPECT(eventually([&] { return !is_busy(waiter); }));
    holder.unlock();
    EXPECT(next.try_lock_for(10s));
    next.unlock();
    {
        const task unseen = hold_until(locks, waiter, tokens);
        EXPECT(eventually([&] { return waiter.owns_lock(); }));
    }
    EXPECT(next.try_lock_for(10s));
    EXPECT(eventually([&] { return !waiter.owns_lock(); }));
    EXPECT(tokens.empty() && locks.poll() == 0);
    next.unlock();

    // What was held before stays held.
    holder.lock();
    {
        const task refused = hold_until(locks, holder, tokens);
    }
    EXPECT(!next.try_lock() && holder.owns_lock());
    holder.unlock();
}

CHECK("a coroutine may destroy another one whose event is there already") {
    dlock::locker locker(url);
    dlock::coroutine_queue locks(locker);
    dlock::mutex one(locker, "one", "coroutines");
    dlock::mutex two(locker, "two", "coroutines");
    std::optional<task> victim;
    const auto first = [&]() -> task {
        (void)co_await locks.lock(one);
        victim.reset();
    };
    const auto second = [&]() -> task {
        (void)co_await locks.lock(two);
        EXPECT(false);
    };
    const task killer = first();
    EXPECT(eventually([&] { return one.owns_lock(); }));
    victim.emplace(second());
    EXPECT(eventually([&] { return two.owns_lock(); }));
    EXPECT(run_until(locks, [&] { return killer.done(); }));
    EXPECT(!victim && one.owns_lock());
    EXPECT(eventually([&] { return !two.owns_lock(); }));
    one.unlock();
}

CHECK("the descriptor tells an event loop; several threads may resume") {
    dlock::locker locker(url);
    dlock::coroutine_queue locks(locker);
    std::vector<dlock::mutex> mutexes;
    for (int i = 0; i < 40; ++i) {
        mutexes.emplace_back(locker, "threads", "coroutines");
    }
    std::atomic<int> ended{0};
    std::atomic<bool> taken{false};
    const auto body = [&](dlock::mutex &mine) -> task {
        for (int round = 0; round < 3; ++round) {
            (void)co_await locks.lock(mine);
            EXPECT(!taken.exchange(true));
            taken = false;
            co_await locks.release(mine);
        }
        ++ended;
    };
    std::vector<task> tasks;
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i) {
        threads.emplace_back([&] {
            const auto end = std::chrono::steady_clock::now() + 30s;
            while (ended < 40 && std::chrono::steady_clock::now() < end) {
                pollfd descriptor = {locks.fd(), POLLIN, 0};
                if (poll(&descriptor, 1, 20) == 1) {
                    locks.poll();
                }
            }
        });
    }
    for (auto &each : mutexes) {
        tasks.push_back(body(each));
    }
    for (auto &each : threads) {
        each.join();
    }
    EXPECT(ended == 40);
}

CHECK("coroutines outlive their queue, and a closed locker ends what they await") {
    std::optional<dlock::locker> locker(url);
    std::optional<dlock::coroutine_queue> locks(*locker);
    dlock::mutex holder(*locker, "outlive", "coroutines");
    dlock::mutex waiter(*locker, "outlive", "coroutines");
    dlock::mutex orphan(*locker, "outlive", "coroutines");
    holder.lock();
    std::vector<std::uint64_t> tokens;
    std::optional<task> orphaned;
    {
        dlock::coroutine_queue first(*locker);
        orphaned.emplace(hold_until(first, orphan, tokens));
        EXPECT(is_busy(orphan));
    }
    orphaned.reset();
    EXPECT(eventually([&] { return !is_busy(orphan); }));
    std::error_code code;
    const auto body = [&]() -> task { (void)co_await locks->lock(waiter, code); };
    const task waiting = body();
    locker.reset();
    EXPECT(run_until(*locks, [&] { return waiting.done(); }));
    EXPECT(code == errc::closed);
    EXPECT_THROW(errc::closed, locks->poll());
    // Refused at once: the coroutine does not suspend.
    const task refused = body();
    EXPECT(refused.done() && code == errc::closed);
}
