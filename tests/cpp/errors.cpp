// Codes, conditions, messages, and what is refused before anything is sent; durations as they reach the library.

#include "check.hpp"

#include <limits>

using dlock::errc;

CHECK("the category names every status and maps to the standard's conditions where it has one") {
    EXPECT(std::string(dlock::category().name()) == "dlock");
    EXPECT(make_error_code(errc::lost).message() == "DLOCK_ERR_LOST");
    EXPECT(std::error_code(999, dlock::category()).message() == "DLOCK_ERR_UNKNOWN");
    const std::pair<errc, std::errc> conditions[] = {
        {errc::not_owner, std::errc::operation_not_permitted}, {errc::unlock_unlocked, std::errc::operation_not_permitted},
        {errc::lock_timeout, std::errc::timed_out},            {errc::not_connected, std::errc::not_connected},
        {errc::invalid_argument, std::errc::invalid_argument}, {errc::already_held, std::errc::resource_deadlock_would_occur},
        {errc::cancelled, std::errc::operation_canceled},      {errc::busy, std::errc::device_or_resource_busy},
    };
    for (const auto &[code, condition] : conditions) {
        EXPECT(make_error_code(code) == condition);
    }
    for (const errc code : {errc::locker, errc::lost, errc::closed, errc::forked, errc::panic}) {
        EXPECT(make_error_code(code) == std::error_condition(static_cast<int>(code), dlock::category()));
    }
    EXPECT(DLOCK_ERR_BUSY == static_cast<int>(errc::busy));
    EXPECT(dlock::version() == DLOCK_VERSION);
}

CHECK("what is refused is named, by an exception, by a failure, by a code") {
    dlock::failure said;
    EXPECT(!said && !said.code() && said.message().empty());
    dlock::locker(std::string_view("gopher://localhost"), said);
    EXPECT(said && said.code() == errc::invalid_argument && said.message().find("url") == 0);
    std::error_code code;
    dlock::locker("gopher://localhost", code);
    EXPECT(code == errc::invalid_argument && code == std::errc::invalid_argument);
    try {
        dlock::locker locker("redis://user:secret@localhost:0");
        EXPECT(false);
    } catch (const std::system_error &error) {
        const std::string text = error.what();
        EXPECT(error.code() == errc::invalid_argument && text.find("DLOCK_ERR_INVALID_ARGUMENT") != std::string::npos);
        EXPECT(text.find("url") == 0 && text.find("secret") == std::string::npos);
    }
    dlock::locker locker(url);
    EXPECT_THROW(errc::invalid_argument, dlock::mutex(locker, "", "cpp"));
    EXPECT_THROW(errc::invalid_argument, dlock::mutex(locker, "name", "a:b"));
    EXPECT_THROW(errc::invalid_argument, dlock::mutex(locker, "\xff", "cpp"));
    dlock::mutex fits(locker, std::string(512, 'x'), "cpp", said);
    EXPECT(!said && said.message().empty());
    dlock::mutex too_long(locker, std::string(513, 'x'), "cpp", said);
    EXPECT(said.code() == errc::invalid_argument && said.message().find("name") == 0);
    EXPECT_CODE(errc::invalid_argument, fits.extend(50ms, why));
}

CHECK("text need not end with a NUL and must not contain one") {
    using namespace std::string_view_literals;
    dlock::locker locker(std::string_view(url + "trailing").substr(0, url.size()));
    dlock::mutex mine(locker, "texts and more"sv.substr(0, 5), "cpp and more"sv.substr(0, 3));
    dlock::mutex other(locker, "texts", "cpp");
    mine.lock();
    EXPECT(!other.try_lock());
    dlock::failure why;
    dlock::mutex name(locker, "a\0b"sv, "cpp", why);
    EXPECT(why.code() == errc::invalid_argument && why.message() == "name: contains a NUL");
    dlock::mutex group(locker, "a", "\0cpp"sv, why);
    EXPECT(why.message() == "group: contains a NUL");
    dlock::locker of_url("memory://a\0b"sv, why);
    EXPECT(why.message() == "url: contains a NUL");
    dlock::options settings;
    settings.host = std::string("a\0b", 3);
    EXPECT_THROW(errc::invalid_argument, dlock::locker(settings));
    std::error_code code;
    dlock::locker of_host(settings, code);
    EXPECT(code == errc::invalid_argument);
}

CHECK("each option reaches the library") {
    dlock::options settings;
    settings.url = url;
    settings.lease = 5s;
    dlock::locker locker(settings);
    dlock::mutex mine(locker, "options", "cpp");
    mine.lock();
    EXPECT(mine.remaining() > 0ms && mine.remaining() <= 5s);
    mine.unlock();
    EXPECT(locker.warnings().find("lease") == std::string::npos);
    for (const auto &[parameter, set] : std::initializer_list<std::pair<const char *, void (*)(dlock::options &)>>{
             {"host", [](dlock::options &o) { o.host = ""; }},
             {"port", [](dlock::options &o) { o.port = std::uint16_t(0); }},
             {"lease_ms", [](dlock::options &o) { o.lease = 99ms; }},
             {"timeout_ms", [](dlock::options &o) { o.connect_timeout = 0ms; }},
             {"timeout_ms", [](dlock::options &o) { o.response_timeout = -5ms; }},
         }) {
        dlock::options wrong;
        set(wrong);
        dlock::failure why;
        dlock::locker refused(wrong, why);
        EXPECT(why.code() == errc::invalid_argument && why.message().find(parameter) == 0);
    }
}

CHECK("a server that is not there is not_connected, and its address is told") {
    dlock::options settings;
    settings.host = "127.0.0.1";
    settings.port = std::uint16_t(1);
    settings.connect_timeout = 2s;
    settings.response_timeout = 2s;
    dlock::locker locker(settings);
    dlock::failure why;
    dlock::mutex refused(locker, "a", "cpp", why);
    EXPECT(why.code() == errc::not_connected && why.code() == std::errc::not_connected);
    EXPECT(why.message().find("127.0.0.1:1") != std::string_view::npos);
    EXPECT_THROW(errc::not_connected, dlock::mutex(locker, "a", "cpp"));
}

CHECK("an empty handle fails with invalid_argument, whatever is asked of it") {
    std::error_code ignored;
    dlock::locker locker("gopher://", ignored);
    EXPECT(locker.native_handle() == nullptr);
    EXPECT_CODE(errc::invalid_argument, locker.close(why));
    EXPECT_CODE(errc::invalid_argument, locker.warnings(why));
    EXPECT_CODE(errc::invalid_argument, dlock::queue(locker, why));
    dlock::mutex empty(locker, "a", "cpp", ignored);
    dlock::queue nothing(locker, ignored);
    EXPECT(empty.native_handle() == nullptr && nothing.native_handle() == nullptr && nothing.fd() == -1);
    EXPECT_CODE(errc::invalid_argument, empty.lock(why));
    EXPECT_CODE(errc::invalid_argument, empty.try_lock(why));
    EXPECT_CODE(errc::invalid_argument, empty.try_lock_for(1s, why));
    EXPECT_CODE(errc::invalid_argument, empty.try_lock_until(std::chrono::steady_clock::now() + 1s, why));
    EXPECT_CODE(errc::invalid_argument, empty.try_lock_backoff(1, 1s, why));
    EXPECT_CODE(errc::invalid_argument, empty.release(why));
    EXPECT_CODE(errc::invalid_argument, empty.cancel(why));
    EXPECT_CODE(errc::invalid_argument, empty.extend(1s, why));
    EXPECT_CODE(errc::invalid_argument, empty.token(why));
    EXPECT_CODE(errc::invalid_argument, empty.remaining(why));
    EXPECT_CODE(errc::invalid_argument, empty.is_locked(why));
    EXPECT_CODE(errc::invalid_argument, empty.is_locked_by_me(why));
    EXPECT_CODE(errc::invalid_argument, empty.owner(why));
    EXPECT_CODE(errc::invalid_argument, empty.id(why));
    EXPECT_CODE(errc::invalid_argument, empty.watch(nothing, 1, why));
    EXPECT_CODE(errc::invalid_argument, nothing.poll(why));
    EXPECT_CODE(errc::invalid_argument, nothing.submit_lock(empty, 1, why));
}

CHECK("durations are rounded up to milliseconds; what does not fit has no end, and less than none is none") {
    using dlock::detail::milliseconds;
    EXPECT(milliseconds(1ns) == 1 && milliseconds(999us) == 1 && milliseconds(1ms) == 1 && milliseconds(1'000'001ns) == 2);
    EXPECT(milliseconds(0ns) == 0 && milliseconds(-1h) == 0 && milliseconds(std::chrono::hours::min()) == 0);
    EXPECT(milliseconds(5s) == 5000 && milliseconds(24h * 365) == 31'536'000'000);
    EXPECT(milliseconds(std::chrono::milliseconds::max()) == INT64_MAX);
    EXPECT(milliseconds(std::chrono::hours::max()) == DLOCK_WAIT_FOREVER);
    EXPECT(milliseconds(std::chrono::duration<double>(0.0005)) == 1);
    EXPECT(milliseconds(std::chrono::duration<double>(1e300)) == DLOCK_WAIT_FOREVER);
    EXPECT(milliseconds(std::chrono::duration<double>(-1e300)) == 0);
    EXPECT(milliseconds(std::chrono::duration<double>(std::numeric_limits<double>::quiet_NaN())) == 0);
}
