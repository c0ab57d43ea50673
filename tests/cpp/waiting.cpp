// The completion queue, watches, and waits that a stop token ends.

#include "check.hpp"

#include <poll.h>

using dlock::errc;
using dlock::event_kind;

static dlock::event next(dlock::queue &events) {
    const std::optional<dlock::event> taken = events.next(10s);
    REQUIRE(taken);
    return *taken;
}

#define EXPECT_EVENT(event, number, what, expected)                                                                    \
    EXPECT((event).user_data() == (number) && (event).kind() == (what) && (event).code() == (expected) &&              \
           (event).message().empty() == !(event).code())

static const std::error_code success;

CHECK("every submission ends in one event, with its number and its answer") {
    dlock::locker locker(url);
    dlock::queue events(locker);
    dlock::mutex mine(locker, "events", "cpp");
    dlock::mutex other(locker, "events", "cpp");

    events.submit_lock(mine, 1);
    dlock::event event = next(events);
    EXPECT_EVENT(event, 1U, event_kind::lock, success);
    EXPECT(event.token() == mine.token());
    events.submit_is_locked(other, 2);
    event = next(events);
    EXPECT_EVENT(event, 2U, event_kind::is_locked, success);
    EXPECT(event.flag());
    events.submit_is_locked_by_me(other, 3);
    event = next(events);
    EXPECT_EVENT(event, 3U, event_kind::is_locked_by_me, success);
    EXPECT(!event.flag());
    events.submit_owner(other, 4);
    event = next(events);
    EXPECT_EVENT(event, 4U, event_kind::owner, success);
    EXPECT(event.flag() && event.owner() == mine.id());
    events.submit_try_lock(other, 5);
    event = next(events);
    EXPECT_EVENT(event, 5U, event_kind::try_lock, success);
    EXPECT(!event.flag());
    events.submit_try_lock_for(other, 20ms, 6);
    event = next(events);
    EXPECT_EVENT(event, 6U, event_kind::lock, errc::lock_timeout);
    events.submit_try_lock_backoff(other, 1, 1ms, 7);
    event = next(events);
    EXPECT_EVENT(event, 7U, event_kind::try_lock_backoff, errc::lock_timeout);
    events.submit_lock(other, 8);
    EXPECT_THROW(errc::busy, events.submit_lock(other, 9));
    other.cancel();
    event = next(events);
    EXPECT_EVENT(event, 8U, event_kind::lock, errc::cancelled);
    events.submit_release(mine, 10);
    event = next(events);
    EXPECT_EVENT(event, 10U, event_kind::release, success);
    EXPECT(!events.poll());
    EXPECT(!events.next(20ms));
}

CHECK("the descriptor is readable while there are events") {
    dlock::locker locker(url);
    dlock::queue events(locker);
    dlock::mutex mine(locker, "descriptor", "cpp");
    pollfd descriptor = {events.fd(), POLLIN, 0};
    REQUIRE(events.fd() >= 0);
    EXPECT(poll(&descriptor, 1, 0) == 0);
    events.submit_lock(mine, 1);
    EXPECT(poll(&descriptor, 1, 10'000) == 1);
    EXPECT(events.poll());
    EXPECT(poll(&descriptor, 1, 0) == 0);
}

CHECK("a watch tells that the lock is lost, with its token") {
    dlock::options settings;
    settings.url = url;
    settings.lease = 1s;
    settings.auto_renew = false;
    dlock::locker locker(settings);
    dlock::queue events(locker);
    dlock::mutex mine(locker, "watched", "cpp");
    mine.watch(events, 77);
    mine.lock();
    const std::uint64_t token = mine.token();
    const dlock::event event = next(events);
    EXPECT_EVENT(event, 77U, event_kind::lost, errc::lost);
    EXPECT(event.token() == token && !mine.owns_lock());
    dlock::locker other(url);
    EXPECT_THROW(errc::invalid_argument, mine.watch(dlock::queue(other), 1));
}

CHECK("a queue outlives its locker: first what is there, then closed") {
    std::optional<dlock::locker> locker(url);
    dlock::queue events(*locker);
    dlock::mutex mine(*locker, "outlives", "cpp");
    dlock::mutex other(*locker, "outlives", "cpp");
    mine.lock();
    events.submit_lock(other, 1);
    locker.reset();
    const dlock::event event = next(events);
    EXPECT_EVENT(event, 1U, event_kind::lock, errc::closed);
    EXPECT_THROW(errc::closed, events.poll());
    EXPECT_THROW(errc::closed, events.next());
    EXPECT_THROW(errc::closed, events.submit_lock(other, 1));
    EXPECT_CODE(errc::closed, events.next(1h, why));
    dlock::queue moved(std::move(events));
    EXPECT_CODE(errc::closed, moved.poll(why));
    EXPECT_CODE(errc::invalid_argument, events.poll(why));
}

#if defined(__cpp_lib_jthread)
CHECK("a stop token ends a wait, which is no error") {
    dlock::locker locker(url);
    dlock::mutex holder(locker, "stopped", "cpp");
    dlock::mutex waiter(locker, "stopped", "cpp");
    holder.lock();
    bool held = true;
    std::error_code code = errc::lost;
    std::jthread waiting([&](std::stop_token stop) { held = waiter.lock(stop, code); });
    EXPECT(eventually([&] { return is_busy(waiter); }));
    const auto begun = std::chrono::steady_clock::now();
    waiting.request_stop();
    waiting.join();
    EXPECT(!held && !code && std::chrono::steady_clock::now() - begun < slack);

    std::stop_source stop;
    EXPECT(!waiter.try_lock_for(30ms, stop.get_token(), code) && !code);
    EXPECT(!waiter.try_lock_until(std::chrono::steady_clock::now() + 30ms, stop.get_token()));
    stop.request_stop();
    EXPECT(!waiter.lock(stop.get_token()));
    EXPECT(!waiter.try_lock_for(1h, stop.get_token()));
    EXPECT(!waiter.try_lock_until(std::chrono::system_clock::now() + 1h, stop.get_token()));
    EXPECT(!waiter.is_locked_by_me() && holder.owns_lock());

    // What ends it otherwise is told.
    stop = std::stop_source();
    std::jthread cancelled([&] { EXPECT_THROW(errc::cancelled, waiter.lock(stop.get_token())); });
    EXPECT(eventually([&] { return is_busy(waiter); }));
    waiter.cancel();
    cancelled.join();
    EXPECT_THROW(errc::already_held, holder.lock(stop.get_token()));
    holder.unlock();
    EXPECT(waiter.lock(stop.get_token()) && waiter.owns_lock());
    waiter.unlock();
    stop.request_stop();
    for (int i = 0; i < 20; ++i) { // Also where the lock is free.
        EXPECT(!waiter.lock(stop.get_token()) && !waiter.try_lock_for(1h, stop.get_token()));
    }
    stop = std::stop_source();
    EXPECT(waiter.try_lock_for(1s, stop.get_token()));
    waiter.unlock();
    EXPECT(waiter.lock(std::stop_token()));
    waiter.unlock();
}

CHECK("a stop at any instant of a wait is heard, and the lock is never stuck") {
    dlock::locker locker(url);
    dlock::mutex holder(locker, "instants", "cpp");
    dlock::mutex waiter(locker, "instants", "cpp");
    int stopped = 0;
    for (int i = 0; i < 60; ++i) {
        holder.lock();
        std::stop_source stop;
        std::jthread stopping([&, i] {
            const auto end = std::chrono::steady_clock::now() + i * 20us;
            while (std::chrono::steady_clock::now() < end) {
            }
            stop.request_stop();
            holder.unlock();
        });
        const bool held = waiter.lock(stop.get_token());
        stopping.join();
        EXPECT(held == waiter.owns_lock());
        stopped += held ? 0 : 1;
        if (held) {
            waiter.unlock();
        }
        EXPECT(!holder.unlock_result());
    }
    EXPECT(stopped > 0);
    EXPECT(holder.try_lock_for(10s));
    holder.unlock();
}
#endif
