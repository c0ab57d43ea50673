import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.Arrays;
import java.util.Locale;
import java.util.concurrent.CyclicBarrier;
import org.redisson.Redisson;
import org.redisson.api.RLock;
import org.redisson.api.RedissonClient;
import org.redisson.config.Config;

/**
 * Redisson's RLock and RFairLock; serves the lines that ../README.md describes.
 *
 * <p>Main &lt;port&gt;
 *
 * <p>lock() without a time has a lease of 30 s that Redisson renews, and waits for a message of the release.
 */
public final class Main {
    private static RedissonClient client;

    /** What one thread did in a block, in nanoseconds. */
    private static final class Share {
        long[] times = new long[4096];
        int count;
        long longest;
        Exception failure;

        void work(RLock lock, boolean hot, long end) {
            for (long before = System.nanoTime(); before < end; ) {
                lock.lock();
                long acquired = System.nanoTime();
                lock.unlock();
                long after = System.nanoTime();
                long took = (hot ? acquired : after) - before;
                longest = Math.max(longest, took);
                if (after <= end) {
                    if (count == times.length) {
                        times = Arrays.copyOf(times, 2 * count);
                    }
                    times[count++] = took;
                }
                before = after;
            }
        }
    }

    private static RLock open(String contender, String name) {
        return switch (contender) {
            case "redisson" -> client.getLock(name);
            case "redisson-fair" -> client.getFairLock(name);
            default -> throw new IllegalArgumentException("no such contender");
        };
    }

    private static String block(String contender, boolean hot, int threads, int milliseconds) throws Exception {
        long[] end = new long[1];
        var begin = new CyclicBarrier(threads, () -> end[0] = System.nanoTime() + milliseconds * 1_000_000L);
        var shares = new Share[threads];
        var running = new Thread[threads];
        for (int i = 0; i < threads; i++) {
            RLock lock = open(contender, contender + (hot ? ":hot" : ":own-" + i));
            Share share = shares[i] = new Share();
            running[i] = new Thread(() -> {
                try {
                    begin.await();
                    share.work(lock, hot, end[0]);
                } catch (Exception failure) {
                    share.failure = failure;
                }
            });
            running[i].start();
        }
        int most = 0;
        int least = Integer.MAX_VALUE;
        int pairs = 0;
        long longest = 0;
        long[] all = new long[0];
        for (int i = 0; i < threads; i++) {
            running[i].join();
            if (shares[i].failure != null) {
                throw shares[i].failure;
            }
            least = Math.min(least, shares[i].count);
            most = Math.max(most, shares[i].count);
            longest = Math.max(longest, shares[i].longest);
            all = Arrays.copyOf(all, pairs + shares[i].count);
            System.arraycopy(shares[i].times, 0, all, pairs, shares[i].count);
            pairs += shares[i].count;
        }
        Arrays.sort(all);
        return String.format(
                Locale.ROOT, "%d %.1f %.1f %.1f %d %d", pairs, part(all, 0.5), part(all, 0.99), longest / 1e3, least, most);
    }

    /** When the lock was acquired, or before it was released; nanoTime is one clock for all processes of a Linux. */
    private static String pass(String contender, boolean take) {
        RLock lock = open(contender, contender + ":passed");
        long at = System.nanoTime();
        if (take) {
            lock.lock();
            at = System.nanoTime();
        } else {
            lock.unlock();
        }
        return String.format(Locale.ROOT, "%.1f", at / 1e3);
    }

    private static double part(long[] sorted, double share) {
        return sorted.length == 0 ? 0 : sorted[(int) (share * sorted.length)] / 1e3;
    }

    public static void main(String[] arguments) throws Exception {
        var config = new Config();
        config.useSingleServer().setAddress("redis://127.0.0.1:" + arguments[0]);
        client = Redisson.create(config);
        var requests = new BufferedReader(new InputStreamReader(System.in));
        for (String line = requests.readLine(); line != null && !line.equals("quit"); line = requests.readLine()) {
            String[] words = line.split(" ");
            try {
                System.out.println(words.length == 2
                        ? pass(words[0], words[1].equals("take"))
                        : block(words[0], words[1].equals("hot"), Integer.parseInt(words[2]), Integer.parseInt(words[3])));
            } catch (Exception failure) {
                System.out.println("! " + String.valueOf(failure).replace('\n', ' '));
            }
        }
        System.exit(0);
    }
}
