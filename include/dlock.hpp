/*
 * dlock.h for C++17 and newer: the same library, no second one. Everything here is inline.
 *
 *     #include <dlock.hpp>
 *     #include <iostream>
 *     #include <mutex>
 *
 *     int main()
 *     {
 *         dlock::locker locker("redis://localhost:6379");
 *         dlock::mutex report(locker, "report", "billing");
 *         std::scoped_lock guard(report);
 *         std::cout << "held; the fencing token is " << report.token() << '\n';
 *     }
 *
 * Build it with: c++ -std=c++17 example.cpp -ldlock
 *
 * What locks, leases, tokens, threads and fork() mean is told in dlock.h, and holds here. This header tells what is different.
 *
 * Errors. Every function has two forms. The one without a last parameter of type dlock::sink throws dlock::error, a
 * std::system_error with one of dlock::errc as its code. The other one takes a std::error_code or, for the library's words as
 * well, a dlock::failure of yours there: it never throws, success clears it, and where it fails it returns false, 0 or nothing.
 * (Memory that the system refuses ends the process, as in the library.) Without exceptions in the compiler only the second form
 * is declared. What the statuses mean and which function answers which is told in dlock.h.
 *
 * Handles. locker, mutex and queue can be moved and not copied. One that was moved from, or whose construction failed without
 * an exception, is empty: what is asked of it fails with errc::invalid_argument. Mutexes and queues may outlive their locker,
 * and then answer errc::closed; they keep what is left of it in memory.
 *
 * Text is copied before a call returns; it need not end with a NUL, and must not contain one.
 *
 * Durations are of std::chrono, and rounded up to milliseconds; less than none is none.
 */
#ifndef DLOCK_HPP
#define DLOCK_HPP

#include "dlock.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

#if __has_include(<version>)
#include <version>
#endif
#if defined(__cpp_lib_jthread)
#include <stop_token>
#endif
#if defined(__cpp_impl_coroutine) && __cplusplus >= 202002L
#include <coroutine>
#include <mutex>
#include <unordered_map>
#endif

/* Defined where functions of the throwing form are declared. */
#if defined(__cpp_exceptions)
#define DLOCK_EXCEPTIONS 1
#endif

/* What the shared libraries of a program must have in common, also where they hide their symbols. */
#if defined(__ELF__)
#define DLOCK_COMMON __attribute__((visibility("default")))
#else
#define DLOCK_COMMON
#endif

namespace dlock {

/// A failure of the library; the values are those of `dlock_status`, and later versions may add more.
enum class errc {
    locker = DLOCK_ERR_LOCKER,
    not_owner = DLOCK_ERR_NOT_OWNER,
    unlock_unlocked = DLOCK_ERR_UNLOCK_UNLOCKED,
    lock_timeout = DLOCK_ERR_LOCK_TIMEOUT,
    not_connected = DLOCK_ERR_NOT_CONNECTED,
    invalid_argument = DLOCK_ERR_INVALID_ARGUMENT,
    already_held = DLOCK_ERR_ALREADY_HELD,
    cancelled = DLOCK_ERR_CANCELLED,
    lost = DLOCK_ERR_LOST,
    closed = DLOCK_ERR_CLOSED,
    forked = DLOCK_ERR_FORKED,
    panic = DLOCK_ERR_PANIC,
    busy = DLOCK_ERR_BUSY,
};

} // namespace dlock

template <>
struct std::is_error_code_enum<dlock::errc> : std::true_type {};

namespace dlock {

/// The category "dlock": a code's message is the name of its status, such as "DLOCK_ERR_LOST". Where the standard has a word
/// for a status, a code is equal to it too: `code == std::errc::operation_canceled`.
DLOCK_COMMON inline const std::error_category &category() noexcept {
    class of_dlock final : public std::error_category {
        const char *name() const noexcept override { return "dlock"; }

        std::string message(int value) const override { return dlock_status_name(value); }

        std::error_condition default_error_condition(int value) const noexcept override {
            switch (value) {
            case DLOCK_ERR_NOT_OWNER:
            case DLOCK_ERR_UNLOCK_UNLOCKED:
                return std::errc::operation_not_permitted;
            case DLOCK_ERR_LOCK_TIMEOUT:
                return std::errc::timed_out;
            case DLOCK_ERR_NOT_CONNECTED:
                return std::errc::not_connected;
            case DLOCK_ERR_INVALID_ARGUMENT:
                return std::errc::invalid_argument;
            case DLOCK_ERR_ALREADY_HELD:
                return std::errc::resource_deadlock_would_occur;
            case DLOCK_ERR_CANCELLED:
                return std::errc::operation_canceled;
            case DLOCK_ERR_BUSY:
                return std::errc::device_or_resource_busy;
            default:
                return {value, *this};
            }
        }
    };
    // Never deleted: while the process ends, other threads may still ask a code what it means.
    static const of_dlock *const instance = new of_dlock;
    return *instance;
}

inline std::error_code make_error_code(errc code) noexcept { return {static_cast<int>(code), category()}; }

namespace detail {

/// Success is the code that every std::error_code begins with.
inline std::error_code code(dlock_status status) noexcept {
    return status == DLOCK_OK ? std::error_code() : std::error_code(static_cast<int>(status), category());
}

} // namespace detail

/// How a call of the form that does not throw ended, with the library's words. `if (failure)` asks whether it failed.
class failure {
public:
    failure() noexcept : error_{} {}

    explicit operator bool() const noexcept { return error_.status != DLOCK_OK; }

    /// Zero after success.
    std::error_code code() const noexcept { return detail::code(error_.status); }

    /// For people; it begins with the parameter or the lock that it is about and contains no secret. Valid until the next
    /// call that is given this object.
    std::string_view message() const noexcept { return error_.message; }

private:
    friend class sink;
    friend class event;
    dlock_error error_;
};

#if defined(DLOCK_EXCEPTIONS)
/// What the throwing form throws. what() has the library's words and the name of the status.
class DLOCK_COMMON error : public std::system_error {
public:
    explicit error(const failure &why) : std::system_error(why.code(), std::string(why.message())) {}
};
#endif

/// The last parameter of the form that does not throw: give it a std::error_code or a failure, which must live as long as the
/// call.
class sink {
public:
    sink(std::error_code &code) noexcept : code_(&code) {}
    sink(failure &why) noexcept : why_(&why) {}

    /// Has the call failed?
    bool failed() const noexcept { return code_ != nullptr ? static_cast<bool>(*code_) : static_cast<bool>(*why_); }

private:
    friend class locker;
    friend class mutex;
    friend class queue;
    friend class coroutine_queue;

    /// Where a C function is to write.
    dlock_error *native() const noexcept { return why_ != nullptr ? &why_->error_ : nullptr; }

    /// Passes on what a C function that was given native() returned. Was it success?
    bool take(dlock_status status) const noexcept {
        if (code_ != nullptr) {
            *code_ = detail::code(status);
        }
        return status == DLOCK_OK;
    }

    void clear() const noexcept { set(DLOCK_OK, {}); }

    void set(dlock_status status, std::string_view message) const noexcept {
        take(status);
        if (why_ != nullptr) {
            why_->error_.status = status;
            why_->error_.message[message.copy(why_->error_.message, DLOCK_ERROR_MESSAGE_SIZE - 1)] = '\0';
        }
    }

    /// May the text become one that ends with a NUL?
    bool fits(const char *parameter, std::string_view text) const noexcept {
        if (text.find('\0') == std::string_view::npos) {
            return true;
        }
        char message[64];
        std::snprintf(message, sizeof message, "%s: contains a NUL", parameter);
        set(DLOCK_ERR_INVALID_ARGUMENT, message);
        return false;
    }

    std::error_code *code_ = nullptr;
    failure *why_ = nullptr;
};

namespace detail {

struct deleter {
    void operator()(dlock_options *options) const noexcept { dlock_options_free(options); }
    void operator()(dlock_lock *lock) const noexcept { dlock_lock_free(lock); }
    void operator()(dlock_queue *queue) const noexcept { dlock_queue_free(queue); }
};

template <class Handle>
using owned = std::unique_ptr<Handle, deleter>;

/// Rounded up, since a wait is never cut short; what does not fit has no end.
template <class Rep, class Period>
std::uint64_t milliseconds(const std::chrono::duration<Rep, Period> &duration) noexcept {
    using exact = std::chrono::duration<long double, std::milli>;
    const long double count = std::chrono::duration_cast<exact>(duration).count();
    if (!(count > 0)) {
        return 0;
    }
    if (count >= static_cast<long double>(DLOCK_WAIT_FOREVER)) {
        return DLOCK_WAIT_FOREVER;
    }
    const auto whole = static_cast<std::uint64_t>(count);
    return static_cast<long double>(whole) < count ? whole + 1 : whole;
}

/// What is left until then. Counted in numbers that hold every clock's: the distance of two times, or one of them in the unit of
/// the other, need not fit their own types.
template <class Clock, class Duration>
std::uint64_t milliseconds_until(const std::chrono::time_point<Clock, Duration> &deadline) noexcept {
    using exact = std::chrono::duration<long double, std::nano>;
    return milliseconds(exact(deadline.time_since_epoch()) - exact(Clock::now().time_since_epoch()));
}

inline std::chrono::milliseconds duration(std::uint64_t milliseconds) noexcept {
    return std::chrono::milliseconds(static_cast<std::chrono::milliseconds::rep>(milliseconds));
}

#if defined(DLOCK_EXCEPTIONS)
inline void raise(const failure &why) {
    if (why) {
        throw error(why);
    }
}

/// The throwing form, made of the other one.
template <class Call>
auto or_throw(Call call) {
    failure why;
    if constexpr (std::is_void_v<decltype(call(why))>) {
        call(why);
        raise(why);
    } else {
        auto result = call(why);
        raise(why);
        return result;
    }
}
#endif

} // namespace detail

/// The version of the library that was loaded; `DLOCK_VERSION` is that of the header.
inline std::string_view version() noexcept { return dlock_version(); }

/// Where the locks live and how long they last. What is not set is as the library has it: localhost:6379, leases of 30 s that
/// are renewed, timeouts of 5 s.
struct options {
    /// As dlock_options_set_url() has it, such as "rediss://user:password@host?ca=/etc/ca.pem".
    std::optional<std::string> url = std::nullopt;
    /// Replace those of the URL.
    std::optional<std::string> host = std::nullopt;
    std::optional<std::uint16_t> port = std::nullopt;
    /// From 100 ms to a year.
    std::optional<std::chrono::milliseconds> lease = std::nullopt;
    std::optional<bool> auto_renew = std::nullopt;
    /// From 1 ms to a day.
    std::optional<std::chrono::milliseconds> connect_timeout = std::nullopt;
    std::optional<std::chrono::milliseconds> response_timeout = std::nullopt;
};

/// The connections and the locks that belong together; a program needs one a server. Any thread, many at once.
class locker {
public:
#if defined(DLOCK_EXCEPTIONS)
    /// Does no I/O: the first mutex connects.
    explicit locker(const options &settings = {}) {
        detail::or_throw([&](failure &why) { open(settings, why); });
    }
    explicit locker(std::string_view url) : locker(of_url(url)) {}
#endif
    locker(const options &settings, sink to) noexcept { open(settings, to); }
    locker(std::string_view url, sink to) noexcept : locker(of_url(url), to) {}

    locker(locker &&) noexcept = default;

    locker &operator=(locker &&other) noexcept {
        locker moved(std::move(other));
        handle_.swap(moved.handle_);
        return *this;
    }

    /// Closes, as close() does, with what that blocks for.
    ~locker() {
        if (handle_ != nullptr) {
            dlock_locker_close(handle_.get(), nullptr);
        }
    }

    /// Ends calls that are blocked, submitted ones too, with errc::closed, and releases what is held.
    void close(sink to) noexcept { to.take(dlock_locker_close(handle_.get(), to.native())); }

    /// What is not as locks would have it at the server, one sentence a line; see dlock_locker_warnings().
    std::string warnings(sink to) const noexcept {
        char text[DLOCK_WARNINGS_SIZE];
        return to.take(dlock_locker_warnings(handle_.get(), text, sizeof text, to.native())) ? text : std::string();
    }

#if defined(DLOCK_EXCEPTIONS)
    void close() {
        detail::or_throw([&](failure &why) { close(why); });
    }
    std::string warnings() const {
        return detail::or_throw([&](failure &why) { return warnings(why); });
    }
#endif

    /// For functions of dlock.h; stays this object's.
    dlock_locker *native_handle() const noexcept { return handle_.get(); }

private:
    friend class mutex;

    static options of_url(std::string_view url) {
        options settings;
        settings.url = url;
        return settings;
    }

    void open(const options &settings, sink to) noexcept {
        dlock_options *made = nullptr;
        if (!to.take(dlock_options_new(&made, to.native()))) {
            return;
        }
        const detail::owned<dlock_options> native(made);
        dlock_locker *opened = nullptr;
        if (set(made, settings, to) && to.take(dlock_locker_new(made, &opened, to.native()))) {
            handle_.reset(opened, dlock_locker_free);
        }
    }

    static bool set(dlock_options *made, const options &settings, sink to) noexcept {
        const auto text = [&](const char *parameter, auto setter, const std::optional<std::string> &value) {
            return !value || (to.fits(parameter, *value) && to.take(setter(made, value->c_str(), to.native())));
        };
        const auto time = [&](auto setter, const std::optional<std::chrono::milliseconds> &value) {
            return !value || to.take(setter(made, detail::milliseconds(*value), to.native()));
        };
        return text("url", dlock_options_set_url, settings.url) && text("host", dlock_options_set_host, settings.host) &&
               (!settings.port || to.take(dlock_options_set_port(made, *settings.port, to.native()))) &&
               time(dlock_options_set_lease_ms, settings.lease) &&
               (!settings.auto_renew || to.take(dlock_options_set_auto_renew(made, *settings.auto_renew, to.native()))) &&
               time(dlock_options_set_connect_timeout_ms, settings.connect_timeout) &&
               time(dlock_options_set_response_timeout_ms, settings.response_timeout);
    }

    /// Shared with mutexes, so that it is there for as long as they are.
    std::shared_ptr<dlock_locker> handle_{};
};

class queue;

/// One contender for one lock; a TimedLockable of the standard, so that std::unique_lock, std::scoped_lock and std::lock work.
///
/// Unlike a std::mutex it is not what contenders share: each has one of its own, made with the same name and group, and so has
/// each thread. One that is used by two threads at a time answers errc::busy or errc::already_held to the second; only cancel(),
/// id(), token(), remaining(), owns_lock(), is_locked(), is_locked_by_me() and owner() may be called beside a blocked call.
///
/// A mutex that is destroyed while it is held is released in the background.
class mutex {
public:
#if defined(DLOCK_EXCEPTIONS)
    /// Connects if there is no connection yet; blocks for that only.
    mutex(const locker &of, std::string_view name, std::string_view group) {
        detail::or_throw([&](failure &why) { open(of, name, group, why); });
    }

    /// Waits for the lock, first come, first served.
    void lock() {
        detail::or_throw([&](failure &why) { lock(why); });
    }

    /// Takes the lock if it is free; false if somebody holds it.
    [[nodiscard]] bool try_lock() {
        return detail::or_throw([&](failure &why) { return try_lock(why); });
    }

    /// Waits for that long at most; false if that was not enough. Where the server cannot be reached it throws.
    template <class Rep, class Period>
    [[nodiscard]] bool try_lock_for(const std::chrono::duration<Rep, Period> &timeout) {
        return detail::or_throw([&](failure &why) { return try_lock_for(timeout, why); });
    }

    /// The same until a time of any clock.
    template <class Clock, class Duration>
    [[nodiscard]] bool try_lock_until(const std::chrono::time_point<Clock, Duration> &deadline) {
        return detail::or_throw([&](failure &why) { return try_lock_until(deadline, why); });
    }

    /// One attempt and up to `retries` more, after waits of 1, 2, 4 … times `initial`; it does not queue.
    template <class Rep, class Period>
    [[nodiscard]] bool try_lock_backoff(std::uint32_t retries, const std::chrono::duration<Rep, Period> &initial) {
        return detail::or_throw([&](failure &why) { return try_lock_backoff(retries, initial, why); });
    }

    /// Releases the lock. Throws errc::lost where the time of the holder was over before, errc::not_owner where somebody else
    /// holds it by now: what was done last may have been done beside another holder.
    void release() {
        detail::or_throw([&](failure &why) { release(why); });
    }

    void cancel() {
        detail::or_throw([&](failure &why) { cancel(why); });
    }
    template <class Rep, class Period>
    void extend(const std::chrono::duration<Rep, Period> &lease) {
        detail::or_throw([&](failure &why) { extend(lease, why); });
    }
    std::uint64_t token() const {
        return detail::or_throw([&](failure &why) { return token(why); });
    }
    std::chrono::milliseconds remaining() const {
        return detail::or_throw([&](failure &why) { return remaining(why); });
    }
    bool is_locked() const {
        return detail::or_throw([&](failure &why) { return is_locked(why); });
    }
    bool is_locked_by_me() const {
        return detail::or_throw([&](failure &why) { return is_locked_by_me(why); });
    }
    std::optional<std::string> owner() const {
        return detail::or_throw([&](failure &why) { return owner(why); });
    }
    std::string id() const {
        return detail::or_throw([&](failure &why) { return id(why); });
    }
    void watch(const queue &events, std::uint64_t user_data) {
        detail::or_throw([&](failure &why) { watch(events, user_data, why); });
    }
#endif

    mutex(const locker &of, std::string_view name, std::string_view group, sink to) noexcept { open(of, name, group, to); }

    /// Releases the lock, and never throws, as the standard asks of it. What went wrong is in unlock_result(); who must know
    /// calls release() instead. A lock that could not be released is ended by its lease.
    void unlock() noexcept { release(unlock_result_); }

    /// How the last unlock() ended: zero, or why it released nothing: errc::lost or errc::not_owner after a loss.
    std::error_code unlock_result() const noexcept { return unlock_result_; }

    /// Is the lock certainly still held, by the holder's own, careful view? No I/O. A write may still arrive after that: only
    /// a resource that checks the token() excludes a stale one.
    bool owns_lock() const noexcept {
        std::error_code code;
        return remaining(code) > std::chrono::milliseconds::zero();
    }

    /// True if the lock is held now.
    bool lock(sink to) noexcept { return to.take(dlock_lock_acquire(handle_.get(), to.native())); }

    [[nodiscard]] bool try_lock(sink to) noexcept {
        bool acquired = false;
        to.take(dlock_lock_try_acquire(handle_.get(), &acquired, to.native()));
        return acquired;
    }

    /// False without an error if the time was not enough.
    template <class Rep, class Period>
    [[nodiscard]] bool try_lock_for(const std::chrono::duration<Rep, Period> &timeout, sink to) noexcept {
        return wait(detail::milliseconds(timeout), to);
    }

    template <class Clock, class Duration>
    [[nodiscard]] bool try_lock_until(const std::chrono::time_point<Clock, Duration> &deadline, sink to) noexcept {
        // Again only if that clock was set back meanwhile.
        do {
            if (wait(detail::milliseconds_until(deadline), to)) {
                return true;
            }
        } while (!to.failed() && detail::milliseconds_until(deadline) > 0);
        return false;
    }

    template <class Rep, class Period>
    [[nodiscard]] bool try_lock_backoff(std::uint32_t retries, const std::chrono::duration<Rep, Period> &initial,
                                        sink to) noexcept {
        const std::uint64_t wait = detail::milliseconds(initial);
        return in_time(dlock_lock_acquire_retry_backoff(handle_.get(), retries, wait, to.native()), to);
    }

    /// True if the lock was released.
    bool release(sink to) noexcept { return to.take(dlock_lock_release(handle_.get(), to.native())); }

#if defined(__cpp_lib_jthread)
    // Waiting that a std::stop_token ends: false without an error if it did. A lock handed over in that very instant is
    // handed on. The waiting is done by the library's thread; a descriptor is in use meanwhile.
#if defined(DLOCK_EXCEPTIONS)
    [[nodiscard]] bool lock(std::stop_token stop) {
        return detail::or_throw([&](failure &why) { return lock(std::move(stop), why); });
    }
    template <class Rep, class Period>
    [[nodiscard]] bool try_lock_for(const std::chrono::duration<Rep, Period> &timeout, std::stop_token stop) {
        return detail::or_throw([&](failure &why) { return try_lock_for(timeout, std::move(stop), why); });
    }
    template <class Clock, class Duration>
    [[nodiscard]] bool try_lock_until(const std::chrono::time_point<Clock, Duration> &deadline, std::stop_token stop) {
        return detail::or_throw([&](failure &why) { return try_lock_until(deadline, std::move(stop), why); });
    }
#endif
    [[nodiscard]] bool lock(std::stop_token stop, sink to) noexcept {
        return unless_stopped(DLOCK_WAIT_FOREVER, std::move(stop), to);
    }

    template <class Rep, class Period>
    [[nodiscard]] bool try_lock_for(const std::chrono::duration<Rep, Period> &timeout, std::stop_token stop, sink to) noexcept {
        return unless_stopped(detail::milliseconds(timeout), std::move(stop), to);
    }

    template <class Clock, class Duration>
    [[nodiscard]] bool try_lock_until(const std::chrono::time_point<Clock, Duration> &deadline, std::stop_token stop,
                                      sink to) noexcept {
        do {
            if (unless_stopped(detail::milliseconds_until(deadline), stop, to)) {
                return true;
            }
        } while (!to.failed() && !stop.stop_requested() && detail::milliseconds_until(deadline) > 0);
        return false;
    }
#endif

    /// Ends the acquire, blocked or submitted, that is under way: it fails with errc::cancelled. Where there is none this does
    /// nothing, now or later. Any thread.
    void cancel(sink to) noexcept { to.take(dlock_lock_cancel(handle_.get(), to.native())); }

    /// Sets the lease of the lock held, from now on; from 100 ms to a year.
    template <class Rep, class Period>
    bool extend(const std::chrono::duration<Rep, Period> &lease, sink to) noexcept {
        return to.take(dlock_lock_extend(handle_.get(), detail::milliseconds(lease), to.native()));
    }

    /// The fencing token of the lock held: greater than that of every earlier acquisition.
    std::uint64_t token(sink to) const noexcept {
        std::uint64_t token = 0;
        to.take(dlock_lock_fencing_token(handle_.get(), &token, to.native()));
        return token;
    }

    /// For how long the lock is certainly still held. No I/O.
    std::chrono::milliseconds remaining(sink to) const noexcept {
        std::uint64_t left = 0;
        to.take(dlock_lock_remaining_ms(handle_.get(), &left, to.native()));
        return detail::duration(left);
    }

    /// Asks the server whether anybody holds the lock.
    bool is_locked(sink to) const noexcept {
        bool locked = false;
        to.take(dlock_lock_is_locked(handle_.get(), &locked, to.native()));
        return locked;
    }

    /// Asks the server whether this very mutex holds the lock.
    bool is_locked_by_me(sink to) const noexcept {
        bool locked = false;
        to.take(dlock_lock_is_locked_by_me(handle_.get(), &locked, to.native()));
        return locked;
    }

    /// Asks the server who holds the lock: the id() of that contender, or nothing if nobody does.
    std::optional<std::string> owner(sink to) const noexcept {
        bool exists = false;
        char owner[DLOCK_UUID_SIZE] = "";
        to.take(dlock_lock_owner(handle_.get(), &exists, owner, to.native()));
        return exists ? std::optional<std::string>(owner) : std::nullopt;
    }

    /// The owner id of this contender; it never changes.
    std::string id(sink to) const noexcept {
        char id[DLOCK_UUID_SIZE] = "";
        const dlock_status status = dlock_lock_id(handle_.get(), id);
        to.set(status, status == DLOCK_OK ? "" : "lock: empty, or of the parent of this process");
        return id;
    }

    /// Asks for an event of kind event_kind::lost whenever this mutex loses the lock that it holds; see dlock_lock_watch().
    void watch(const queue &events, std::uint64_t user_data, sink to) noexcept;

    /// For functions of dlock.h; stays this object's.
    dlock_lock *native_handle() const noexcept { return handle_.get(); }

private:
    void open(const locker &of, std::string_view name, std::string_view group, sink to) noexcept {
        if (!to.fits("name", name) || !to.fits("group", group)) {
            return;
        }
        dlock_lock *made = nullptr;
        const std::string ended_name(name);
        const std::string ended_group(group);
        if (to.take(dlock_lock_new(of.native_handle(), ended_name.c_str(), ended_group.c_str(), &made, to.native()))) {
            handle_.reset(made);
            locker_ = of.handle_;
        }
    }

    static bool in_time(dlock_status status, sink to) noexcept {
        if (status == DLOCK_ERR_LOCK_TIMEOUT) {
            to.clear();
            return false;
        }
        return to.take(status);
    }

    bool wait(std::uint64_t timeout, sink to) noexcept {
        return in_time(dlock_lock_acquire_timeout(handle_.get(), timeout, to.native()), to);
    }

#if defined(__cpp_lib_jthread)
    /// By a queue, and not by cancelling a blocked call: a cancel does nothing before the call has begun, and that cannot be
    /// told from outside. A submission has begun when it is accepted.
    bool unless_stopped(std::uint64_t timeout, std::stop_token stop, sink to) noexcept {
        dlock_queue *made = nullptr;
        if (!to.take(dlock_queue_new(locker_.get(), &made, to.native()))) {
            return false;
        }
        const detail::owned<dlock_queue> waiting(made);
        // Else what is submitted could end before it is cancelled.
        if (stop.stop_requested()) {
            return false;
        }
        if (!to.take(dlock_submit_acquire(made, handle_.get(), timeout, 0, to.native()))) {
            return false;
        }
        const std::stop_callback on_stop(stop, [this] { dlock_lock_cancel(handle_.get(), nullptr); });
        dlock_event event;
        std::size_t count = 0;
        if (!to.take(dlock_queue_wait(made, &event, 1, DLOCK_WAIT_FOREVER, &count, to.native()))) {
            return false;
        }
        if (event.status == DLOCK_ERR_LOCK_TIMEOUT || (event.status == DLOCK_ERR_CANCELLED && stop.stop_requested())) {
            to.clear();
            return false;
        }
        to.set(event.status, event.message);
        return event.status == DLOCK_OK;
    }
#endif

    std::shared_ptr<dlock_locker> locker_{};
    detail::owned<dlock_lock> handle_{};
    std::error_code unlock_result_{};
};

/// Which operation an event reports on; the values are those of `dlock_event_kind`, and later versions may add more.
enum class event_kind {
    lock = DLOCK_EVENT_ACQUIRE,
    try_lock = DLOCK_EVENT_TRY_ACQUIRE,
    try_lock_backoff = DLOCK_EVENT_ACQUIRE_RETRY_BACKOFF,
    release = DLOCK_EVENT_RELEASE,
    is_locked = DLOCK_EVENT_IS_LOCKED,
    is_locked_by_me = DLOCK_EVENT_IS_LOCKED_BY_ME,
    owner = DLOCK_EVENT_OWNER,
    lost = DLOCK_EVENT_LOST,
};

/// One finished operation; what the members are for which kind is told in dlock.h.
class event {
public:
    explicit event(const dlock_event &native) noexcept : native_(native) {}

    /// The number given with the submission or the watch.
    std::uint64_t user_data() const noexcept { return native_.user_data; }
    event_kind kind() const noexcept { return static_cast<event_kind>(native_.kind); }
    /// Zero, or why the operation failed.
    std::error_code code() const noexcept { return detail::code(native_.status); }
    bool flag() const noexcept { return native_.flag; }
    std::uint64_t token() const noexcept { return native_.token; }
    std::string_view owner() const noexcept { return native_.owner; }
    std::string_view message() const noexcept { return native_.message; }

private:
    dlock_event native_;
};

/// Collects what submitted operations answer. Each submission is given a number of yours, and ends in exactly one event. Until
/// that of a lock or a release is there the mutex is in use. Any thread, many at once.
class queue {
public:
#if defined(DLOCK_EXCEPTIONS)
    explicit queue(const locker &of) {
        detail::or_throw([&](failure &why) { open(of, why); });
    }

    void submit_lock(mutex &of, std::uint64_t user_data) {
        detail::or_throw([&](failure &why) { submit_lock(of, user_data, why); });
    }
    template <class Rep, class Period>
    void submit_try_lock_for(mutex &of, const std::chrono::duration<Rep, Period> &timeout, std::uint64_t user_data) {
        detail::or_throw([&](failure &why) { submit_try_lock_for(of, timeout, user_data, why); });
    }
    void submit_try_lock(mutex &of, std::uint64_t user_data) {
        detail::or_throw([&](failure &why) { submit_try_lock(of, user_data, why); });
    }
    template <class Rep, class Period>
    void submit_try_lock_backoff(mutex &of, std::uint32_t retries, const std::chrono::duration<Rep, Period> &initial,
                                 std::uint64_t user_data) {
        detail::or_throw([&](failure &why) { submit_try_lock_backoff(of, retries, initial, user_data, why); });
    }
    void submit_release(mutex &of, std::uint64_t user_data) {
        detail::or_throw([&](failure &why) { submit_release(of, user_data, why); });
    }
    void submit_is_locked(const mutex &of, std::uint64_t user_data) {
        detail::or_throw([&](failure &why) { submit_is_locked(of, user_data, why); });
    }
    void submit_is_locked_by_me(const mutex &of, std::uint64_t user_data) {
        detail::or_throw([&](failure &why) { submit_is_locked_by_me(of, user_data, why); });
    }
    void submit_owner(const mutex &of, std::uint64_t user_data) {
        detail::or_throw([&](failure &why) { submit_owner(of, user_data, why); });
    }

    /// The next event, waited for without an end. Throws errc::closed when the locker is closed and no event is left.
    std::optional<event> next() {
        return detail::or_throw([&](failure &why) { return next(why); });
    }
    /// The next event, or nothing if there was none in that time.
    template <class Rep, class Period>
    std::optional<event> next(const std::chrono::duration<Rep, Period> &timeout) {
        return detail::or_throw([&](failure &why) { return next(timeout, why); });
    }
    /// The next event, or nothing if there is none now.
    std::optional<event> poll() {
        return detail::or_throw([&](failure &why) { return poll(why); });
    }
#endif

    queue(const locker &of, sink to) noexcept { open(of, to); }

    /// Readable while there are events, for epoll, kqueue, poll or an event loop: then poll() until there is none. -1 where
    /// there is no descriptor. Only watch it; it ends with the queue.
    int fd() const noexcept { return dlock_queue_fd(handle_.get()); }

    void submit_lock(mutex &of, std::uint64_t user_data, sink to) noexcept {
        submit(of, DLOCK_WAIT_FOREVER, user_data, to);
    }

    /// Ends with errc::lock_timeout if the time was not enough; its kind is event_kind::lock.
    template <class Rep, class Period>
    void submit_try_lock_for(mutex &of, const std::chrono::duration<Rep, Period> &timeout, std::uint64_t user_data,
                             sink to) noexcept {
        submit(of, detail::milliseconds(timeout), user_data, to);
    }

    void submit_try_lock(mutex &of, std::uint64_t user_data, sink to) noexcept {
        to.take(dlock_submit_try_acquire(handle_.get(), of.native_handle(), user_data, to.native()));
    }

    template <class Rep, class Period>
    void submit_try_lock_backoff(mutex &of, std::uint32_t retries, const std::chrono::duration<Rep, Period> &initial,
                                 std::uint64_t user_data, sink to) noexcept {
        to.take(dlock_submit_acquire_retry_backoff(handle_.get(), of.native_handle(), retries, detail::milliseconds(initial),
                                                   user_data, to.native()));
    }

    void submit_release(mutex &of, std::uint64_t user_data, sink to) noexcept {
        to.take(dlock_submit_release(handle_.get(), of.native_handle(), user_data, to.native()));
    }

    void submit_is_locked(const mutex &of, std::uint64_t user_data, sink to) noexcept {
        to.take(dlock_submit_is_locked(handle_.get(), of.native_handle(), user_data, to.native()));
    }

    void submit_is_locked_by_me(const mutex &of, std::uint64_t user_data, sink to) noexcept {
        to.take(dlock_submit_is_locked_by_me(handle_.get(), of.native_handle(), user_data, to.native()));
    }

    void submit_owner(const mutex &of, std::uint64_t user_data, sink to) noexcept {
        to.take(dlock_submit_owner(handle_.get(), of.native_handle(), user_data, to.native()));
    }

    std::optional<event> next(sink to) noexcept { return wait(DLOCK_WAIT_FOREVER, to); }

    template <class Rep, class Period>
    std::optional<event> next(const std::chrono::duration<Rep, Period> &timeout, sink to) noexcept {
        return wait(detail::milliseconds(timeout), to);
    }

    std::optional<event> poll(sink to) noexcept { return wait(0, to); }

    /// For functions of dlock.h; stays this object's.
    dlock_queue *native_handle() const noexcept { return handle_.get(); }

private:
    void open(const locker &of, sink to) noexcept {
        dlock_queue *made = nullptr;
        if (to.take(dlock_queue_new(of.native_handle(), &made, to.native()))) {
            handle_.reset(made);
        }
    }

    void submit(mutex &of, std::uint64_t timeout, std::uint64_t user_data, sink to) noexcept {
        to.take(dlock_submit_acquire(handle_.get(), of.native_handle(), timeout, user_data, to.native()));
    }

    std::optional<event> wait(std::uint64_t timeout, sink to) noexcept {
        dlock_event native;
        std::size_t count = 0;
        to.take(dlock_queue_wait(handle_.get(), &native, 1, timeout, &count, to.native()));
        return count == 1 ? std::optional<event>(native) : std::nullopt;
    }

    detail::owned<dlock_queue> handle_{};
};

inline void mutex::watch(const queue &events, std::uint64_t user_data, sink to) noexcept {
    to.take(dlock_lock_watch(handle_.get(), events.native_handle(), user_data, to.native()));
}

#if defined(__cpp_impl_coroutine) && __cplusplus >= 202002L
/// Locks for coroutines: what is awaited costs no thread, and the coroutine is resumed by poll() or wait(), on the thread that
/// calls them. Brings no task type and no scheduler: any coroutine may await here, and an event loop watches fd().
///
///     dlock::coroutine_queue locks(locker);
///     …  co_await locks.lock(report);         // in a coroutine
///     …  locks.wait(100ms);                   // in the loop, or poll() when fd() is readable
///
/// Any thread, many at once. The mutex must not be destroyed before the awaiting is over. A coroutine that is destroyed while it
/// awaits gives up: its acquire is cancelled, and a lock that it got in that instant is released in the background. Destroy one
/// only where no other thread may be resuming it. When the queue goes first, its coroutines are never resumed; they are still
/// to be destroyed.
class coroutine_queue {
    enum class step { lock, try_lock, release };

public:
    /// What is awaited; made by the functions below, and awaited at once.
    template <class Result>
    class [[nodiscard]] operation;

#if defined(DLOCK_EXCEPTIONS)
    explicit coroutine_queue(const locker &of) : queue_(of) {}

    /// Waits for the lock. Gives the fencing token.
    operation<std::uint64_t> lock(mutex &of);
    /// Takes the lock if it is free; false if somebody holds it.
    operation<bool> try_lock(mutex &of);
    /// False if that time was not enough.
    template <class Rep, class Period>
    operation<bool> try_lock_for(mutex &of, const std::chrono::duration<Rep, Period> &timeout);
    operation<void> release(mutex &of);
#if defined(__cpp_lib_jthread)
    /// False if `stop` ended the waiting.
    operation<bool> lock(mutex &of, std::stop_token stop);
    /// False if that time was not enough, or if `stop` came first.
    template <class Rep, class Period>
    operation<bool> try_lock_for(mutex &of, const std::chrono::duration<Rep, Period> &timeout, std::stop_token stop);
#endif

    /// Resumes the coroutines whose operations have ended, 64 at most, and tells how many. Does not wait. What a coroutine lets
    /// escape from its resumption passes through. Throws errc::closed when the locker is closed and no event is left.
    std::size_t poll() {
        return detail::or_throw([&](failure &why) { return poll(why); });
    }
    /// The same, after waiting for the first, for that long at most.
    template <class Rep, class Period>
    std::size_t wait(const std::chrono::duration<Rep, Period> &timeout) {
        return detail::or_throw([&](failure &why) { return wait(timeout, why); });
    }
#endif

    coroutine_queue(const locker &of, sink to) noexcept : queue_(of, to) {}
    coroutine_queue(const coroutine_queue &) = delete;
    coroutine_queue &operator=(const coroutine_queue &) = delete;
    ~coroutine_queue();

    operation<std::uint64_t> lock(mutex &of, sink to) noexcept;
    operation<bool> try_lock(mutex &of, sink to) noexcept;
    template <class Rep, class Period>
    operation<bool> try_lock_for(mutex &of, const std::chrono::duration<Rep, Period> &timeout, sink to) noexcept;
    operation<void> release(mutex &of, sink to) noexcept;
#if defined(__cpp_lib_jthread)
    operation<bool> lock(mutex &of, std::stop_token stop, sink to) noexcept;
    template <class Rep, class Period>
    operation<bool> try_lock_for(mutex &of, const std::chrono::duration<Rep, Period> &timeout, std::stop_token stop,
                                 sink to) noexcept;
#endif

    /// Readable while there is something to resume: see queue::fd().
    int fd() const noexcept { return queue_.fd(); }

    std::size_t poll(sink to) { return resume(0, to); }

    template <class Rep, class Period>
    std::size_t wait(const std::chrono::duration<Rep, Period> &timeout, sink to) {
        return resume(detail::milliseconds(timeout), to);
    }

private:
    /// What the table of pending operations knows of one.
    struct pending {
        coroutine_queue *owner = nullptr;
        std::coroutine_handle<> waiter{};
        dlock_event event{};
    };

    static constexpr std::size_t batch = 64;

    /// One event at a time: one that was taken out could not be put back if a resumption threw.
    std::size_t resume(std::uint64_t timeout, sink to) {
        std::size_t resumed = 0;
        for (std::size_t taken = 0; taken < batch; ++taken) {
            dlock_event event;
            std::size_t count = 0;
            if (!to.take(dlock_queue_wait(queue_.native_handle(), &event, 1, taken == 0 ? timeout : 0, &count, to.native()))) {
                // That the locker is closed is told when there is nothing else to tell.
                if (resumed > 0) {
                    to.clear();
                }
                break;
            }
            if (count == 0) {
                break;
            }
            if (const std::coroutine_handle<> waiter = finish(event)) {
                ++resumed;
                waiter.resume();
            }
        }
        return resumed;
    }

    /// The coroutine that waits for the event, or none if it was destroyed meanwhile.
    std::coroutine_handle<> finish(const dlock_event &event) {
        const std::lock_guard guard(guard_);
        const auto found = pending_.find(event.user_data);
        if (found == pending_.end()) {
            return nullptr;
        }
        pending &ended = *found->second;
        pending_.erase(found);
        ended.owner = nullptr;
        ended.event = event;
        return ended.waiter;
    }

    queue queue_;
    std::mutex guard_{};
    std::unordered_map<std::uint64_t, pending *> pending_{};
    std::uint64_t last_number_ = 0;
};

template <class Result>
class [[nodiscard]] coroutine_queue::operation : private pending {
public:
    operation(const operation &) = delete;
    operation &operator=(const operation &) = delete;

    ~operation() {
#if defined(__cpp_lib_jthread)
        on_stop_.reset(); // From here on the mutex may be in other use.
#endif
        if (owner == nullptr) {
            return;
        }
        const std::lock_guard guard(owner->guard_);
        owner->pending_.erase(number_);
        if (step_ != step::release && !held_before_) {
            // Either the acquire has not ended, and is cancelled; or it has, and the release finds what it got.
            dlock_lock_cancel(lock_, nullptr);
            dlock_submit_release(owner->queue_.native_handle(), lock_, 0, nullptr);
        }
    }

    bool await_ready() const noexcept { return false; }

    /// The queue stays locked until the submission is complete: its event may be there before it has returned, and the
    /// coroutine must not go on, on another thread, while this still looks at it.
    bool await_suspend(std::coroutine_handle<> coroutine) {
#if defined(__cpp_lib_jthread)
        if (stop_.stop_requested()) {
            event.status = DLOCK_ERR_CANCELLED;
            return false;
        }
#endif
        const std::lock_guard guard(queue_.guard_);
        std::uint64_t left = 0;
        held_before_ = dlock_lock_remaining_ms(lock_, &left, nullptr) == DLOCK_OK;
        number_ = ++queue_.last_number_;
        queue_.pending_.emplace(number_, static_cast<pending *>(this));
        const dlock_status status = submit();
        if (status != DLOCK_OK) {
            queue_.pending_.erase(number_);
            return false;
        }
        owner = &queue_;
        waiter = coroutine;
#if defined(__cpp_lib_jthread)
        on_stop_.emplace(stop_, canceller{lock_});
#endif
        return true;
    }

    Result await_resume() {
#if defined(__cpp_lib_jthread)
        on_stop_.reset();
#endif
        const bool in_time = settle(to_ ? *to_ : sink(why_));
        if (raise_ != nullptr) {
            raise_(why_);
        }
        if constexpr (std::is_same_v<Result, bool>) {
            return in_time;
        } else if constexpr (!std::is_void_v<Result>) {
            return event.token;
        }
    }

private:
    friend class coroutine_queue;

    using raise_function = void(const failure &);

    /// Without `to` the throwing form. What it throws with is a pointer, and not a branch for the preprocessor: a program may have
    /// parts that are compiled without exceptions, and of this function only one copy.
    operation(coroutine_queue &queue, const mutex &of, step what, std::uint64_t timeout, std::optional<sink> to,
              raise_function *raise) noexcept
        : queue_(queue), lock_(of.native_handle()), step_(what), timeout_(timeout), to_(to), raise_(raise) {}

#if defined(__cpp_lib_jthread)
    operation(coroutine_queue &queue, const mutex &of, std::uint64_t timeout, std::stop_token stop, std::optional<sink> to,
              raise_function *raise) noexcept
        : operation(queue, of, step::lock, timeout, to, raise) {
        stop_ = std::move(stop);
    }
#endif

    dlock_status submit() {
        dlock_queue *const native = queue_.queue_.native_handle();
        dlock_error refused;
        dlock_status status = DLOCK_OK;
        switch (step_) {
        case step::lock:
            status = dlock_submit_acquire(native, lock_, timeout_, number_, &refused);
            break;
        case step::try_lock:
            status = dlock_submit_try_acquire(native, lock_, number_, &refused);
            break;
        case step::release:
            status = dlock_submit_release(native, lock_, number_, &refused);
            break;
        }
        event.status = status;
        std::string_view(refused.message).copy(event.message, sizeof event.message);
        return status;
    }

    /// Is the lock held? A time that was over and a stop are no errors where the answer is a bool.
    bool settle(sink to) const noexcept {
        if (std::is_same_v<Result, bool> && (event.status == DLOCK_ERR_LOCK_TIMEOUT || stopped())) {
            to.clear();
            return false;
        }
        to.set(event.status, event.message);
        return event.status == DLOCK_OK && (step_ != step::try_lock || event.flag);
    }

#if defined(__cpp_lib_jthread)
    struct canceller {
        dlock_lock *lock;
        void operator()() const noexcept { dlock_lock_cancel(lock, nullptr); }
    };

    bool stopped() const noexcept { return event.status == DLOCK_ERR_CANCELLED && stop_.stop_requested(); }

    std::stop_token stop_{};
    std::optional<std::stop_callback<canceller>> on_stop_{};
#else
    static bool stopped() noexcept { return false; }
#endif

    coroutine_queue &queue_;
    dlock_lock *lock_;
    step step_;
    std::uint64_t timeout_;
    std::optional<sink> to_;
    raise_function *raise_;
    failure why_{};
    std::uint64_t number_ = 0;
    bool held_before_ = false;
};

inline coroutine_queue::~coroutine_queue() {
    for (const auto &[number, left] : pending_) {
        left->owner = nullptr;
    }
}

inline coroutine_queue::operation<std::uint64_t> coroutine_queue::lock(mutex &of, sink to) noexcept {
    return {*this, of, step::lock, DLOCK_WAIT_FOREVER, to, nullptr};
}

inline coroutine_queue::operation<bool> coroutine_queue::try_lock(mutex &of, sink to) noexcept {
    return {*this, of, step::try_lock, 0, to, nullptr};
}

template <class Rep, class Period>
coroutine_queue::operation<bool> coroutine_queue::try_lock_for(mutex &of, const std::chrono::duration<Rep, Period> &timeout,
                                                               sink to) noexcept {
    return {*this, of, step::lock, detail::milliseconds(timeout), to, nullptr};
}

inline coroutine_queue::operation<void> coroutine_queue::release(mutex &of, sink to) noexcept {
    return {*this, of, step::release, 0, to, nullptr};
}

#if defined(DLOCK_EXCEPTIONS)
inline coroutine_queue::operation<std::uint64_t> coroutine_queue::lock(mutex &of) {
    return {*this, of, step::lock, DLOCK_WAIT_FOREVER, std::nullopt, detail::raise};
}

inline coroutine_queue::operation<bool> coroutine_queue::try_lock(mutex &of) {
    return {*this, of, step::try_lock, 0, std::nullopt, detail::raise};
}

template <class Rep, class Period>
coroutine_queue::operation<bool> coroutine_queue::try_lock_for(mutex &of, const std::chrono::duration<Rep, Period> &timeout) {
    return {*this, of, step::lock, detail::milliseconds(timeout), std::nullopt, detail::raise};
}

inline coroutine_queue::operation<void> coroutine_queue::release(mutex &of) {
    return {*this, of, step::release, 0, std::nullopt, detail::raise};
}
#endif

#if defined(__cpp_lib_jthread)
inline coroutine_queue::operation<bool> coroutine_queue::lock(mutex &of, std::stop_token stop, sink to) noexcept {
    return {*this, of, DLOCK_WAIT_FOREVER, std::move(stop), to, nullptr};
}

template <class Rep, class Period>
coroutine_queue::operation<bool> coroutine_queue::try_lock_for(mutex &of, const std::chrono::duration<Rep, Period> &timeout,
                                                               std::stop_token stop, sink to) noexcept {
    return {*this, of, detail::milliseconds(timeout), std::move(stop), to, nullptr};
}

#if defined(DLOCK_EXCEPTIONS)
inline coroutine_queue::operation<bool> coroutine_queue::lock(mutex &of, std::stop_token stop) {
    return {*this, of, DLOCK_WAIT_FOREVER, std::move(stop), std::nullopt, detail::raise};
}

template <class Rep, class Period>
coroutine_queue::operation<bool> coroutine_queue::try_lock_for(mutex &of, const std::chrono::duration<Rep, Period> &timeout,
                                                               std::stop_token stop) {
    return {*this, of, detail::milliseconds(timeout), std::move(stop), std::nullopt, detail::raise};
}
#endif
#endif
#endif

} // namespace dlock

#undef DLOCK_COMMON

#endif /* DLOCK_HPP */
