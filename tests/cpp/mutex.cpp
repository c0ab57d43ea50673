// dlock::mutex as a TimedLockable: the guards of the standard, several locks at once, threads, moves, a lock that is lost.

#include "check.hpp"

#include <array>
#include <atomic>
#include <mutex>

using dlock::errc;

template <class Handle>
constexpr bool only_moves = !std::is_copy_constructible_v<Handle> && !std::is_copy_assignable_v<Handle> &&
                            std::is_nothrow_move_constructible_v<Handle> && std::is_nothrow_move_assignable_v<Handle> &&
                            std::is_nothrow_swappable_v<Handle> && !std::is_default_constructible_v<Handle>;
static_assert(only_moves<dlock::mutex> && only_moves<dlock::queue>);
static_assert(!std::is_copy_constructible_v<dlock::locker> && std::is_nothrow_move_assignable_v<dlock::locker>);
static_assert(noexcept(std::declval<dlock::mutex &>().unlock()) && !noexcept(std::declval<dlock::mutex &>().lock()));
static_assert(std::is_nothrow_copy_constructible_v<dlock::error>);

// Lockers whose locks end after a second, which is time enough for a call or two on a machine that is busy.
static dlock::options forgetful() {
    dlock::options settings;
    settings.url = url;
    settings.lease = 1s;
    settings.auto_renew = false;
    return settings;
}

CHECK("a mutex that is held tells its token, its time, its owner, and is refused to another") {
    dlock::locker locker(url);
    dlock::mutex mine(locker, "held", "cpp");
    dlock::mutex theirs(locker, "held", "cpp");
    EXPECT(!mine.owns_lock() && !mine.is_locked() && !mine.owner());
    EXPECT_THROW(errc::unlock_unlocked, mine.token());
    EXPECT_THROW(errc::unlock_unlocked, mine.remaining());
    mine.lock();
    const std::uint64_t first = mine.token();
    EXPECT(mine.owns_lock() && mine.is_locked() && mine.is_locked_by_me() && theirs.is_locked());
    EXPECT(!theirs.is_locked_by_me() && !theirs.owns_lock());
    EXPECT(mine.remaining() > 0ms && mine.remaining() <= 30s);
    EXPECT(mine.id().size() == 36 && mine.id() != theirs.id());
    EXPECT(theirs.owner() == mine.id());
    EXPECT(!theirs.try_lock());
    mine.extend(60s);
    EXPECT(mine.remaining() > 30s && mine.remaining() <= 60s);
    mine.release();
    EXPECT(theirs.try_lock());
    EXPECT(theirs.token() > first);
    theirs.unlock();
    EXPECT(!theirs.unlock_result());
}

CHECK("a wait ends with its time, of any clock, and false is no error") {
    dlock::locker locker(url);
    dlock::mutex holder(locker, "time", "cpp");
    dlock::mutex waiter(locker, "time", "cpp");
    holder.lock();
    std::error_code code = errc::lost;
    const auto begun = std::chrono::steady_clock::now();
    EXPECT(!waiter.try_lock_for(50ms, code) && !code);
    EXPECT(!waiter.try_lock_until(std::chrono::steady_clock::now() + 50ms, code) && !code);
    EXPECT(!waiter.try_lock_until(std::chrono::system_clock::now() + 50ms));
    EXPECT(std::chrono::steady_clock::now() - begun >= 150ms);
    EXPECT(std::chrono::steady_clock::now() - begun < 150ms + slack);
    EXPECT(!waiter.try_lock_for(0.5ms) && !waiter.try_lock_for(-1h));
    EXPECT(!waiter.try_lock_until(std::chrono::steady_clock::time_point::min()));
    EXPECT(!waiter.try_lock_backoff(2, 1ms, code) && !code);
    holder.unlock();
    EXPECT(waiter.try_lock_for(std::chrono::hours::max()));
    waiter.unlock();
    EXPECT(waiter.try_lock_until(std::chrono::steady_clock::time_point::max()));
    waiter.unlock();
    EXPECT(waiter.try_lock_backoff(0, 1ms));
    waiter.unlock();
}

// A clock whose times are negative for now, as those of std::chrono::file_clock.
struct late_clock {
    using duration = std::chrono::nanoseconds;
    using rep = duration::rep;
    using period = duration::period;
    using time_point = std::chrono::time_point<late_clock>;
    static constexpr bool is_steady = true;
    static time_point now() noexcept { return time_point(std::chrono::steady_clock::now().time_since_epoch() - 24h * 365 * 200); }
};

// A wait until then, that nothing but a cancel ends.
template <class Time>
static void expect_endless(dlock::mutex &waiter, Time deadline) {
    std::error_code code;
    std::thread waiting([&] { EXPECT(!waiter.try_lock_until(deadline, code)); });
    EXPECT(eventually([&] { return is_busy(waiter); }));
    waiter.cancel();
    waiting.join();
    EXPECT(code == errc::cancelled);
}

CHECK("a time that is past what its clock, or the unit of another, can count to is one that never comes") {
    dlock::locker locker(url);
    dlock::mutex holder(locker, "never", "cpp");
    dlock::mutex waiter(locker, "never", "cpp");
    holder.lock();
    using std::chrono::steady_clock;
    using std::chrono::system_clock;
    expect_endless(waiter, std::chrono::time_point<system_clock, std::chrono::seconds>::max());
    expect_endless(waiter, std::chrono::time_point<steady_clock, std::chrono::hours>::max());
    expect_endless(waiter, std::chrono::time_point<steady_clock, std::chrono::duration<double>>::max());
    expect_endless(waiter, late_clock::time_point::max());
    EXPECT(!waiter.try_lock_until(std::chrono::time_point<steady_clock, std::chrono::hours>::min()));
    EXPECT(!waiter.try_lock_until(late_clock::time_point::min()));
    holder.unlock();
}

CHECK("std::unique_lock and std::scoped_lock hold it for a scope") {
    dlock::locker locker(url);
    dlock::mutex mine(locker, "guards", "cpp");
    dlock::mutex other(locker, "guards_too", "cpp");
    dlock::mutex theirs(locker, "guards", "cpp");
    {
        std::unique_lock<dlock::mutex> guard(mine);
        EXPECT(guard.owns_lock() && mine.owns_lock() && !theirs.try_lock());
        std::unique_lock<dlock::mutex> in_time(theirs, 20ms);
        EXPECT(!in_time.owns_lock());
        guard.unlock();
        EXPECT(in_time.try_lock_for(10s));
        EXPECT(!guard.try_lock());
    }
    EXPECT(!theirs.is_locked());
    {
        std::scoped_lock guard(mine, other);
        EXPECT(mine.owns_lock() && other.owns_lock());
    }
    EXPECT(!mine.is_locked() && !other.is_locked());
    EXPECT(!mine.unlock_result());
    try {
        std::lock_guard guard(mine);
        throw 1;
    } catch (int) {
        EXPECT(!mine.is_locked());
    }
}

CHECK("std::lock takes several locks in any order, without a deadlock, and one holder at a time has them") {
    dlock::locker locker(url);
    std::array<std::atomic<bool>, 3> taken{};
    std::atomic<int> rounds{0};
    const auto work = [&](std::array<const char *, 3> names) {
        dlock::mutex a(locker, names[0], "cpp");
        dlock::mutex b(locker, names[1], "cpp");
        dlock::mutex c(locker, names[2], "cpp");
        for (int i = 0; i < 10; ++i) {
            std::lock(a, b, c);
            for (auto &each : taken) {
                EXPECT(!each.exchange(true));
            }
            ++rounds;
            for (auto &each : taken) {
                each = false;
            }
            a.unlock();
            b.unlock();
            c.unlock();
        }
    };
    std::thread forth(work, std::array{"x", "y", "z"});
    std::thread back(work, std::array{"z", "y", "x"});
    forth.join();
    back.join();
    EXPECT(rounds == 20);

    // One that fails leaves none held.
    dlock::locker other(url);
    dlock::mutex a(locker, "x", "cpp");
    dlock::mutex b(other, "y", "cpp");
    other.close();
    EXPECT_THROW(errc::closed, std::lock(a, b));
    EXPECT_THROW(errc::closed, std::scoped_lock(b, a));
    EXPECT_THROW(errc::closed, std::try_lock(a, b));
    EXPECT(!a.is_locked());
}

CHECK("threads with a mutex each take turns; one that two threads share says so to the second") {
    dlock::locker locker(url);
    std::atomic<bool> taken{false};
    std::atomic<int> rounds{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] {
            dlock::mutex mine(locker, "turns", "cpp");
            for (int round = 0; round < 20; ++round) {
                std::lock_guard guard(mine);
                EXPECT(!taken.exchange(true));
                ++rounds;
                taken = false;
            }
        });
    }
    for (auto &each : threads) {
        each.join();
    }
    EXPECT(rounds == 80);

    dlock::mutex holder(locker, "turns", "cpp");
    dlock::mutex shared(locker, "turns", "cpp");
    holder.lock();
    std::thread waiting([&] { shared.lock(); });
    EXPECT(eventually([&] { return is_busy(shared); }));
    EXPECT_THROW(errc::busy, shared.try_lock());
    EXPECT_CODE(errc::busy, shared.lock(why));
    holder.unlock();
    waiting.join();
    EXPECT_THROW(errc::already_held, shared.lock());
    EXPECT(!shared.try_lock());
    shared.unlock();
}

CHECK("cancel ends a wait on another thread") {
    dlock::locker locker(url);
    dlock::mutex holder(locker, "cancel", "cpp");
    dlock::mutex waiter(locker, "cancel", "cpp");
    holder.lock();
    waiter.cancel(); // Nothing to cancel.
    std::error_code code;
    std::thread waiting([&] { waiter.lock(code); });
    EXPECT(eventually([&] { return is_busy(waiter); }));
    waiter.cancel();
    waiting.join();
    EXPECT(code == errc::cancelled && code == std::errc::operation_canceled);
    holder.unlock();
    EXPECT(waiter.try_lock());
    waiter.unlock();
}

CHECK("a mutex that moves keeps its lock, and one that is replaced or destroyed gives it back") {
    dlock::locker locker(url);
    dlock::mutex other(locker, "moves", "cpp");
    {
        dlock::mutex first(locker, "moves", "cpp");
        first.lock();
        const std::uint64_t token = first.token();
        dlock::mutex second(std::move(first));
        EXPECT(second.owns_lock() && second.token() == token && !other.try_lock());
        EXPECT(!first.owns_lock());
        EXPECT_THROW(errc::invalid_argument, first.lock());
        first.unlock();
        EXPECT(first.unlock_result() == errc::invalid_argument);
        second = dlock::mutex(locker, "moves_too", "cpp");
        EXPECT(other.try_lock_for(10s));
        other.unlock();
        first = std::move(second);
        first = dlock::mutex(locker, "moves", "cpp");
        first.lock();
    }
    EXPECT(other.try_lock_for(10s));
    other.unlock();
    dlock::locker moved(std::move(locker));
    EXPECT_CODE(errc::invalid_argument, dlock::mutex(locker, "a", "cpp", why));
    EXPECT(dlock::mutex(moved, "moves", "cpp").try_lock());
    // Replacing a locker closes the former one.
    moved = dlock::locker(url);
    EXPECT_THROW(errc::closed, other.lock());
    EXPECT(dlock::mutex(moved, "moves", "cpp").try_lock());
    // Onto itself it stays open.
    dlock::locker &same = moved;
    moved = std::move(same);
    EXPECT(dlock::mutex(moved, "moves", "cpp").try_lock());
}

CHECK("a lock that is lost is told of by everything, unlock() included, and not taken for the next holder's") {
    dlock::locker brief(forgetful());
    dlock::locker locker(url);
    dlock::mutex late(brief, "lost", "cpp");
    dlock::mutex next(locker, "lost", "cpp");
    {
        std::unique_lock guard(late);
        const std::uint64_t token = late.token();
        next.lock();
        EXPECT(next.token() > token);
        EXPECT(!late.owns_lock());
        EXPECT_THROW(errc::lost, late.token());
        EXPECT_THROW(errc::lost, late.extend(1s));
        EXPECT(guard.owns_lock()); // The guard cannot know; the mutex does.
    }
    EXPECT(late.unlock_result() == errc::not_owner);
    EXPECT(next.owns_lock() && next.is_locked_by_me());
    EXPECT_CODE(errc::not_owner, late.release(why));
    EXPECT_THROW(errc::not_owner, late.release());
    next.release();
    EXPECT_THROW(errc::unlock_unlocked, next.release());
    next.unlock();
    EXPECT(next.unlock_result() == std::errc::operation_not_permitted);
    late.lock();
    std::error_code code;
    EXPECT(eventually([&] { return late.token(code) == 0; }));
    EXPECT(code == errc::lost);
    late.unlock(); // Nobody took it meanwhile.
    EXPECT(late.unlock_result() == errc::lost);
    late.lock();
    late.unlock();
    EXPECT(!late.unlock_result());
}

CHECK("a locker that ends releases what is held, ends what waits, and its mutexes live on") {
    dlock::locker others(url);
    std::optional<dlock::locker> locker(url);
    dlock::mutex held(*locker, "ends", "cpp");
    dlock::mutex waiter(*locker, "ends", "cpp");
    dlock::mutex other(others, "ends", "cpp");
    held.lock();
    std::error_code code;
    std::thread waiting([&] { waiter.lock(code); });
    EXPECT(eventually([&] { return is_busy(waiter); }));
    locker.reset();
    waiting.join();
    EXPECT(code == errc::closed);
    EXPECT(!held.owns_lock());
    EXPECT_THROW(errc::closed, held.lock());
    held.unlock();
    EXPECT(held.unlock_result() == errc::closed);
    EXPECT(other.try_lock_for(10s));
    other.release();
    others.close();
    others.close();
    EXPECT_THROW(errc::closed, dlock::mutex(others, "ends", "cpp"));
}
