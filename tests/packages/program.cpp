// The same by the C++ header.
#include <dlock.hpp>

#include <iostream>
#include <mutex>

int main(int argc, char **argv) {
    if (argc != 2) {
        return 2;
    }
    try {
        dlock::locker locker(argv[1]);
        dlock::mutex lock(locker, "foreign", "packages");
        if (std::unique_lock guard(lock, std::chrono::seconds(10)); guard.owns_lock()) {
            guard.release();
            lock.release();
            std::cout << "locked and released\n";
            return 0;
        }
    } catch (const dlock::error &error) {
        std::cout << error.what() << '\n';
    }
    return 1;
}
