// Compiled without exceptions and run-time types: everything is there in the form that does not throw, and only in that.

#include "check.hpp"

#include <mutex>
#include <poll.h>

#if defined(__cpp_exceptions) || defined(__cpp_rtti) || defined(DLOCK_EXCEPTIONS)
#error "compile with -fno-exceptions -fno-rtti"
#endif

using dlock::errc;

template <class Mutex, class = void>
struct throwing_form : std::false_type {};
template <class Mutex>
struct throwing_form<Mutex, std::void_t<decltype(std::declval<Mutex &>().lock())>> : std::true_type {};
static_assert(!throwing_form<dlock::mutex>::value);

CHECK("locks, waits and errors without exceptions") {
    std::error_code code = errc::lost;
    dlock::locker locker(url, code);
    REQUIRE(!code);
    dlock::mutex mine(locker, "plain", "cpp", code);
    dlock::mutex other(locker, "plain", "cpp", code);
    EXPECT(mine.lock(code) && !code && mine.token(code) > 0);
    {
        std::unique_lock<dlock::mutex> guard(mine, std::adopt_lock);
        EXPECT(!other.try_lock(code) && !code);
        EXPECT(!other.try_lock_for(10ms, code) && !code);
        EXPECT(!mine.lock(code) && code == errc::already_held);
        EXPECT(other.owner(code) == mine.id(code));
    }
    EXPECT(!mine.unlock_result());
    dlock::failure why;
    EXPECT(!mine.release(why) && why.code() == errc::unlock_unlocked && !why.message().empty());
    EXPECT(other.try_lock_backoff(1, 1ms, why) && !why && why.message().empty());
    EXPECT(other.release(why));
    dlock::queue events(locker, code);
    events.submit_lock(mine, 5, code);
    const std::optional<dlock::event> event = events.next(10s, code);
    EXPECT(event && event->user_data() == 5 && event->token() == mine.token(code) && !code);
    EXPECT(mine.release(code));
    EXPECT(locker.warnings(code).find("plain") == std::string::npos && !code);
    locker.close(code);
    EXPECT(!mine.lock(code) && code == errc::closed);
}

#if defined(__cpp_impl_coroutine) && __cplusplus >= 202002L
#include "detached.hpp"

CHECK("stop tokens and coroutines without exceptions") {
    std::error_code code;
    dlock::locker locker(url, code);
    dlock::mutex mine(locker, "plain_too", "cpp", code);
    std::stop_source stop;
    stop.request_stop();
    EXPECT(mine.lock(std::stop_token(), code));
    dlock::mutex other(locker, "plain_too", "cpp", code);
    EXPECT(!other.lock(stop.get_token(), code) && !code);
    EXPECT(mine.release(code));
    dlock::coroutine_queue locks(locker, code);
    bool ended = false;
    const auto body = [&]() -> detached {
        EXPECT(co_await locks.lock(mine, code) == mine.token(code));
        EXPECT(!co_await locks.try_lock(other, code));
        co_await locks.release(mine, code);
        EXPECT(!code);
        ended = true;
    };
    body();
    EXPECT(eventually([&] { return ended || (locks.wait(1s, code), ended); }));
}
#endif
