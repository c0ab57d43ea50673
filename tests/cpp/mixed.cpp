// A program of two parts, of which run.py compiles mixed_plain.cpp without exceptions: they get along in one program, and as a
// shared library that hides its symbols.

#include "check.hpp"
#include "detached.hpp"

#if !defined(__cpp_impl_coroutine)
#error "this compiler has no coroutines"
#endif

using dlock::errc;

void lock_and_release(dlock::coroutine_queue &locks, dlock::mutex &mine, std::error_code &code);
const std::error_category &category_there();

CHECK("what the part with exceptions awaits is thrown, whoever the linker took the functions from") {
    dlock::locker locker(url);
    dlock::coroutine_queue locks(locker);
    dlock::mutex mine(locker, "mixed", "cpp");
    std::error_code code = errc::lost;
    lock_and_release(locks, mine, code);
    EXPECT(!code);
    bool ended = false;
    errc thrown{};
    const auto body = [&]() -> detached {
        try {
            co_await locks.release(mine);
        } catch (const dlock::error &error) {
            thrown = static_cast<errc>(error.code().value());
        }
        ended = true;
    };
    body();
    EXPECT(eventually([&] { return ended || (locks.wait(1s), ended); }));
    EXPECT(thrown == errc::unlock_unlocked);
}

CHECK("the parts of a program have one category, and each knows the codes of the other") {
    dlock::locker locker(url);
    dlock::coroutine_queue locks(locker);
    dlock::mutex mine(locker, "mixed_too", "cpp");
    mine.lock();
    std::error_code code;
    lock_and_release(locks, mine, code);
    EXPECT(code == errc::already_held);
    EXPECT(category_there() == dlock::category());
    mine.unlock();
}
