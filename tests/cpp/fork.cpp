// What a child of fork() may do. Compiled without the sanitizers: a child of theirs may inherit the locked mutex of their
// allocator from another thread, and then waits for ever.

#include "check.hpp"

using dlock::errc;

CHECK("in a child of fork() handles say so, and can be destroyed; the parent's lock stays") {
    std::optional<dlock::locker> locker(url);
    std::optional<dlock::mutex> held(std::in_place, *locker, "fork", "cpp");
    held->lock();
    const int status = in_child([&] {
        EXPECT_THROW(errc::forked, held->lock());
        EXPECT(!held->owns_lock());
        EXPECT_CODE(errc::forked, held->id(why));
        held.reset();
        locker.reset();
        dlock::locker own(url);
        if (url.rfind("memory", 0) != 0) {
            EXPECT(!dlock::mutex(own, "fork", "cpp").try_lock());
        }
    });
    EXPECT(status == 0);
    EXPECT(held->owns_lock() && held->is_locked_by_me());
    held->release();
}
