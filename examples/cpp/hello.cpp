// One lock, held for a scope.
//
//     ./hello [url]
#include <dlock.hpp>

#include <iostream>
#include <mutex>

int main(int argc, char **argv) {
    try {
        // The connections to one server; a program needs one of them.
        dlock::locker locker(argc > 1 ? argv[1] : "redis://localhost:6379");
        // One contender for the lock "report" of the group "billing". Each thread makes its own.
        dlock::mutex report(locker, "report", "billing");
        {
            std::scoped_lock guard(report); // Waits for as long as it takes. The lease is renewed in the background.
            std::cout << "held, with the token " << report.token() << '\n';
        }
        // A guard cannot say that its unlocking failed; the mutex can.
        if (const std::error_code code = report.unlock_result()) {
            throw std::system_error(code, "unlocking");
        }
        std::cout << "released\n";
        return 0;
    } catch (const std::system_error &error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
