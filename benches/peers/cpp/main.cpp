/*
 * dlock.hpp, and redis-plus-plus where it is installed, in two ways: its RedMutex, whose lock() waits, and its older RedLock,
 * which only tries, so that the caller asks again. Serves the lines that ../README.md describes.
 *
 *     peers-cpp <port>
 */
#include <dlock.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <future>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#ifdef HAVE_REDISPP
#include <sw/redis++/redis++.h>
#include <sw/redis++/patterns/redlock.h>
#endif

using namespace std::chrono_literals;
using clock_type = std::chrono::steady_clock; // CLOCK_MONOTONIC: one clock for all processes
using microseconds = std::chrono::duration<double, std::micro>;

/* What a thread locks and unlocks, of any library. */
struct lock {
    std::function<void()> acquire, release;
};

/* --- dlock --- */

static lock dlock_of(const std::string &port, const std::string &name)
{
    static const dlock::locker locker("redis://127.0.0.1:" + port);
    auto mutex = std::make_shared<dlock::mutex>(locker, name, "peers");
    return {[mutex] { mutex->lock(); }, [mutex] { mutex->unlock(); }};
}

/* --- redis-plus-plus; without an argument for it, a RedMutex would start a thread of its own that renews --- */

#ifdef HAVE_REDISPP
namespace redispp = sw::redis;

static constexpr auto lease = 30s;
/* RedLock has no default for the pause between two attempts; a tenth of the usual 100 ms, to the peer's favour. */
static constexpr auto retry = 10ms;

static std::shared_ptr<redispp::Redis> redispp_client(const std::string &port)
{
    static const auto client = [&port] {
        redispp::ConnectionOptions server;
        server.host = "127.0.0.1";
        server.port = std::stoi(port);
        redispp::ConnectionPoolOptions pool;
        pool.size = 64; // a connection for each thread
        return std::make_shared<redispp::Redis>(server, pool);
    }();
    return client;
}

static lock redmutex_of(const std::string &port, const std::string &name)
{
    static const auto watcher = std::make_shared<redispp::LockWatcher>();
    redispp::RedMutexOptions options;
    options.ttl = lease;
    auto mutex = std::make_shared<redispp::RedMutex>(redispp_client(port), name, nullptr, options, watcher);
    return {[mutex] { mutex->lock(); }, [mutex] { mutex->unlock(); }};
}

static lock redlock_of(const std::string &port, const std::string &name)
{
    auto mutex = std::make_shared<redispp::RedLockMutex>(redispp_client(port), name);
    auto held = std::make_shared<redispp::RedLock<redispp::RedLockMutex>>(*mutex, std::defer_lock);
    return {[mutex, held] {
                while (!held->try_lock(lease))
                    std::this_thread::sleep_for(retry);
            },
            [held] { held->unlock(); }};
}
#endif

static const std::map<std::string, lock (*)(const std::string &, const std::string &)> contenders = {
    {"dlock-cpp", dlock_of},
#ifdef HAVE_REDISPP
    {"redispp-redmutex", redmutex_of},
    {"redispp-redlock", redlock_of},
#endif
};

static lock &lock_of(const std::string &port, const std::string &contender, const std::string &name, int thread)
{
    static std::map<std::pair<std::string, int>, lock> kept; // of earlier requests
    const auto key = std::make_pair(contender + ":" + name, thread);
    auto found = kept.find(key);
    if (found == kept.end())
        found = kept.emplace(key, contenders.at(contender)(port, key.first)).first;
    return found->second;
}

/* --- a block --- */

/* What one thread did before the end, in microseconds. */
struct share {
    std::vector<double> times;
    double longest = 0;
};

static share work(lock &own, bool hot, const std::shared_future<clock_type::time_point> &begin)
{
    share mine;
    const auto end = begin.get();
    for (auto before = clock_type::now(); before < end;) {
        own.acquire();
        const auto acquired = clock_type::now();
        own.release();
        const auto after = clock_type::now();
        const double took = microseconds((hot ? acquired : after) - before).count();
        mine.longest = std::max(mine.longest, took);
        if (after <= end)
            mine.times.push_back(took);
        before = after;
    }
    return mine;
}

static std::string block(const std::vector<lock *> &locks, bool hot, std::chrono::milliseconds length)
{
    std::promise<clock_type::time_point> end;
    const auto begin = end.get_future().share();
    std::vector<std::future<share>> running;
    for (lock *each : locks)
        running.push_back(std::async(std::launch::async, [each, hot, begin] { return work(*each, hot, begin); }));
    std::this_thread::sleep_for(5ms); // until the threads are there
    end.set_value(clock_type::now() + length);
    std::vector<double> all;
    std::size_t least = SIZE_MAX, most = 0;
    double longest = 0;
    for (auto &each : running) {
        const share done = each.get();
        all.insert(all.end(), done.times.begin(), done.times.end());
        least = std::min(least, done.times.size());
        most = std::max(most, done.times.size());
        longest = std::max(longest, done.longest);
    }
    std::sort(all.begin(), all.end());
    const auto part = [&all](double share) { return all.empty() ? 0.0 : all[static_cast<std::size_t>(share * static_cast<double>(all.size()))]; };
    char answer[160];
    std::snprintf(answer, sizeof answer, "%zu %.1f %.1f %.1f %zu %zu", all.size(), part(0.5), part(0.99), longest, least, most);
    return answer;
}

/* --- requests --- */

static std::string clock_now()
{
    char text[32];
    std::snprintf(text, sizeof text, "%.1f", microseconds(clock_type::now().time_since_epoch()).count());
    return text;
}

static std::string answer(const std::string &port, const std::string &request)
{
    std::istringstream words(request);
    std::string contender, what;
    int threads = 0, ms = 0;
    words >> contender >> what;
    if (contenders.count(contender) == 0)
        return "! no such contender";
    if (what == "take") {
        lock_of(port, contender, "passed", 0).acquire();
        return clock_now();
    }
    if (what == "give") {
        const std::string before = clock_now();
        lock_of(port, contender, "passed", 0).release();
        return before;
    }
    if (!(words >> threads >> ms) || threads < 1)
        return "! not a request";
    std::vector<lock *> locks;
    for (int i = 0; i < threads; i++)
        locks.push_back(&lock_of(port, contender, what == "hot" ? "hot" : "own-" + std::to_string(i), i));
    return block(locks, what == "hot", std::chrono::milliseconds(ms));
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        std::cerr << "usage: peers-cpp <port>\n";
        return 1;
    }
    for (std::string line; std::getline(std::cin, line) && line != "quit";) {
        std::string said;
        try {
            said = answer(argv[1], line);
        } catch (const std::exception &error) {
            said = std::string("! ") + error.what();
            std::replace(said.begin(), said.end(), '\n', ' ');
        }
        std::cout << said << std::endl;
    }
    return 0;
}
