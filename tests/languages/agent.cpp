// The lines of tests/c/agent.c, by dlock.hpp.
//
//     agent <url> <lease ms> <renew 0|1> <connect timeout ms> <response timeout ms> <group> <name>
#include <dlock.hpp>

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <sstream>
#include <string>

using std::chrono::milliseconds;

namespace {

struct not_in_time {};

struct agent {
    dlock::locker locker;
    std::string group, name;
    std::optional<dlock::mutex> mutex;

    void open(const std::string &of_group, const std::string &with_name) {
        mutex.reset();
        mutex.emplace(locker, with_name == "''" ? "" : with_name, of_group == "''" ? "" : of_group);
    }

    // The value. That a lock was not to be had in time is false here, and not an error.
    std::string run(const std::string &command, const std::string &first, const std::string &second) {
        const auto flag = [](bool value) { return std::string(value ? "true" : "false"); };
        const auto in_time = [](bool taken) {
            if (!taken)
                throw not_in_time();
            return std::string("-");
        };
        const auto number = [](const std::string &word) { return std::strtoll(word.c_str(), nullptr, 10); };
        if (command == "new")
            open(group, name);
        else if (command == "open")
            open(first, second);
        else if (command == "acquire")
            mutex->lock();
        else if (command == "acquire_timeout")
            return in_time(mutex->try_lock_for(milliseconds(number(first))));
        else if (command == "try")
            return flag(mutex->try_lock());
        else if (command == "backoff")
            return in_time(mutex->try_lock_backoff(static_cast<std::uint32_t>(number(first)), milliseconds(number(second))));
        else if (command == "release")
            mutex->release();
        else if (command == "extend")
            mutex->extend(milliseconds(number(first)));
        else if (command == "is_locked")
            return flag(mutex->is_locked());
        else if (command == "is_locked_by_me")
            return flag(mutex->is_locked_by_me());
        else if (command == "owner")
            return mutex->owner().value_or("nobody");
        else if (command == "id")
            return mutex->id();
        else if (command == "token")
            return std::to_string(mutex->token());
        else if (command == "remaining")
            return std::to_string(mutex->remaining().count());
        else if (command == "cycle") {
            mutex->lock();
            const auto token = mutex->token();
            mutex->release();
            return std::to_string(token);
        } else {
            std::cerr << "unknown command " << command << '\n';
            std::exit(2);
        }
        return "-";
    }
};

dlock::options options_of(char **argv) {
    const auto ms = [](const char *word) { return milliseconds(std::strtoll(word, nullptr, 10)); };
    dlock::options options;
    options.url = argv[1];
    options.lease = ms(argv[2]);
    options.auto_renew = argv[3][0] == '1';
    options.connect_timeout = ms(argv[4]);
    options.response_timeout = ms(argv[5]);
    return options;
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 8)
        return 2;
    agent self{dlock::locker(options_of(argv)), argv[6], argv[7], std::nullopt};
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream words(line);
        std::string command, first, second, status = "DLOCK_OK", value = "-", message;
        words >> command >> first >> second;
        const auto begun = std::chrono::steady_clock::now();
        try {
            value = self.run(command, first, second);
        } catch (const not_in_time &) {
            status = dlock_status_name(DLOCK_ERR_LOCK_TIMEOUT);
        } catch (const std::system_error &error) {
            status = error.code().message();
            message = error.what();
        }
        const auto elapsed = std::chrono::steady_clock::now() - begun;
        std::cout << status << ' ' << std::chrono::duration_cast<milliseconds>(elapsed).count() << ' ' << value << ' ' << message
                  << std::endl;
    }
}
