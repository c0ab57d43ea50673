// Before the parts of docs/cpp.md that are no programs of their own: what their reader is taken to have.
#include <dlock.hpp>

#include <iostream>
#include <mutex>
#include <poll.h>
#include <thread>

using namespace std::chrono_literals;

void work();
void write_row(std::uint64_t token);
