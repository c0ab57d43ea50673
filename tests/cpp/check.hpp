// A few macros with which a C++ program reports named checks, one line each, in the way that tests/c/harness.py reads.
//
// Each check runs in a child process of its own, so that one that crashes or hangs fails alone. The child ends by exit(), so
// that the sanitizers can look for leaks. Knows nothing of locks but where the server is. Compiles without exceptions.
#ifndef CHECK_HPP
#define CHECK_HPP

#include <dlock.hpp>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace std::chrono_literals;

// How late an answer may be on a machine that is busy with something else.
constexpr auto slack = 2s;
// No check may take longer than this.
constexpr unsigned check_seconds = 60;

inline std::string url = "redis://localhost:6379";
inline int failures = 0;

struct named_check {
    const char *name;
    void (*body)();
};

inline std::vector<named_check> &all_checks() {
    static std::vector<named_check> checks;
    return checks;
}

struct registration {
    registration(const char *name, void (*body)()) { all_checks().push_back({name, body}); }
};

#define CHECK_JOIN_(a, b) a##b
#define CHECK_JOIN(a, b) CHECK_JOIN_(a, b)

// The name is the sentence that is printed.
#define CHECK(name)                                                                                                    \
    static void CHECK_JOIN(check_, __LINE__)();                                                                        \
    static const registration CHECK_JOIN(registration_, __LINE__)(name, CHECK_JOIN(check_, __LINE__));                 \
    static void CHECK_JOIN(check_, __LINE__)()

// Goes on after a failure: the rest often says why.
#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            std::printf("  %s:%d: not true: %s\n", __FILE__, __LINE__, #condition);                                    \
            ++failures;                                                                                                \
        }                                                                                                              \
    } while (0)

// Ends the check: without this the rest makes no sense.
#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            std::printf("  %s:%d: not true: %s\n", __FILE__, __LINE__, #condition);                                    \
            std::fflush(stdout);                                                                                       \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

// The call, which is given `why` as its last argument, ends with that code.
#define EXPECT_CODE(expected, call)                                                                                    \
    do {                                                                                                               \
        const auto called = [&](dlock::failure &why) { (void)(call); };                                                \
        dlock::failure answer;                                                                                         \
        called(answer);                                                                                                \
        if (answer.code() != (expected)) {                                                                             \
            std::printf("  %s:%d: %s: %s: %s\n", __FILE__, __LINE__, #call, answer.code().message().c_str(),           \
                        std::string(answer.message()).c_str());                                                        \
            ++failures;                                                                                                \
        }                                                                                                              \
    } while (0)

// The expression throws a dlock::error with that code.
#define EXPECT_THROW(expected, expression)                                                                             \
    do {                                                                                                               \
        try {                                                                                                          \
            (void)(expression);                                                                                        \
            std::printf("  %s:%d: threw nothing: %s\n", __FILE__, __LINE__, #expression);                              \
            ++failures;                                                                                                \
        } catch (const dlock::error &thrown) {                                                                         \
            if (thrown.code() != (expected)) {                                                                         \
                std::printf("  %s:%d: %s threw %s\n", __FILE__, __LINE__, #expression, thrown.what());                 \
                ++failures;                                                                                            \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

// Waits for what another thread or the server will do without telling us; is it true in time?
template <class Condition>
bool eventually(Condition condition) {
    const auto end = std::chrono::steady_clock::now() + 20s;
    while (!condition()) {
        if (std::chrono::steady_clock::now() > end) {
            return false;
        }
        std::this_thread::sleep_for(2ms);
    }
    return true;
}

// Is that mutex inside an acquire? (On one that holds nothing, extend fails otherwise, at once.)
inline bool is_busy(dlock::mutex &of) {
    std::error_code code;
    of.extend(30s, code);
    return code == dlock::errc::busy;
}

// Runs a function in a child process; its exit status, or -1.
template <class Body>
int in_child(Body body) {
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        alarm(check_seconds);
        body();
        std::fflush(stdout);
        std::exit(failures == 0 ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) {
        std::printf("  ended by signal %d (%s)\n", WTERMSIG(status),
                    WTERMSIG(status) == SIGALRM ? "it took too long" : strsignal(WTERMSIG(status)));
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// argv: [url] [part of the names of the checks to run]
int main(int argc, char **argv) {
    if (argc > 1) {
        url = argv[1];
    }
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    int failed = 0;
    for (const named_check &check : all_checks()) {
        if (argc > 2 && std::strstr(check.name, argv[2]) == nullptr) {
            continue;
        }
        const bool passed = in_child(check.body) == 0;
        std::printf("%s - %s\n", passed ? "ok" : "not ok", check.name);
        failed += passed ? 0 : 1;
    }
    return failed == 0 ? 0 : 1;
}

#endif
