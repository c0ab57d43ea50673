// Why a write carries the fencing token: what was stopped for longer than its lease writes too late, and is refused.
//
//     ./fenced_write [url]
#include <dlock.hpp>

#include <iostream>

using namespace std::chrono_literals;

// Stands for a table with a column "token" and an UPDATE … WHERE token <= ?, or an object store with conditional writes.
class resource {
public:
    bool write(std::uint64_t token) {
        if (token < highest_) {
            return false;
        }
        highest_ = token;
        return true;
    }

private:
    std::uint64_t highest_ = 0;
};

static void write(resource &table, const char *who, std::uint64_t token) {
    std::cout << who << " writes with token " << token << ": " << (table.write(token) ? "taken" : "refused") << '\n';
}

int main(int argc, char **argv) {
    try {
        dlock::options settings;
        settings.url = argc > 1 ? argv[1] : "redis://localhost:6379";
        dlock::locker locker(settings);
        // A program of yours leaves renewal on. A lease that is not renewed is what a process that was stopped looks like.
        settings.lease = 500ms;
        settings.auto_renew = false;
        dlock::locker stopped(settings);
        dlock::mutex first(stopped, "row", "examples");
        dlock::mutex second(locker, "row", "examples");
        resource table;

        first.lock();
        const std::uint64_t token = first.token(); // Read once for each time that the lock is taken.
        write(table, "the first worker", token);

        second.lock(); // Served when the lease of the first has ended.
        write(table, "the second worker", second.token());

        // Past every check that a client can make, the first one's write was under way all the time.
        write(table, "the first worker, too late,", token);
        std::error_code code;
        if (first.release(code)) {
            return 1;
        }
        std::cout << "the first worker: " << code.message() << '\n';
        second.release();
        return 0;
    } catch (const dlock::error &error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
