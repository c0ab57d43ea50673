/*
 * So many uncontended pairs on one thread, and nothing else: to be run under a tool that counts.
 *
 *     pairs <port> <count>
 *
 * Prints the CPU that this process took for each pair.
 */
#include "bench.h"

int main(int argc, char **argv)
{
    if (argc != 3)
        die("usage: pairs <port> <count>");
    char url[64];
    int count = atoi(argv[2]);
    dlock_error err;
    redis_url(url, sizeof url, argv[1]);
    dlock_locker *locker = open_locker(url);
    dlock_lock *lock = open_lock(locker, "pairs");
    double before = cpu_seconds();
    for (int i = 0; i < count; i++) {
        must(dlock_lock_acquire(lock, &err), &err, "acquire");
        must(dlock_lock_release(lock, &err), &err, "release");
    }
    printf("client_us %.3f\n", (cpu_seconds() - before) / count * 1e6);
    dlock_lock_free(lock);
    dlock_locker_free(locker);
    return 0;
}
