/* A ring buffer for one writer and one reader, without a lock.
 *
 * The capacity is a power of two, so that a position becomes an index by masking and positions may run on for ever: the
 * difference of two unsigned positions is right even after they wrapped. The writer alone moves `head`, the reader
 * alone moves `tail`; each publishes its position with a release store and reads the other's with an acquire load.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ring {
    size_t mask;
    unsigned char *bytes;
    _Alignas(64) atomic_size_t head;
    _Alignas(64) atomic_size_t tail;
};

int ring_init(struct ring *r, size_t capacity) {
    if (capacity < 2 || (capacity & (capacity - 1)) != 0) {
        return EINVAL;
    }
    r->bytes = malloc(capacity);
    if (r->bytes == NULL) {
        return ENOMEM;
    }
    r->mask = capacity - 1;
    atomic_init(&r->head, 0);
    atomic_init(&r->tail, 0);
    return 0;
}

void ring_free(struct ring *r) {
    free(r->bytes);
    r->bytes = NULL;
}

size_t ring_used(struct ring *r) {
    return atomic_load_explicit(&r->head, memory_order_acquire) -
           atomic_load_explicit(&r->tail, memory_order_acquire);
}

/* Writes all of it or nothing, so that records never arrive in halves. */
bool ring_put(struct ring *r, const void *data, size_t length) {
    size_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    size_t tail = atomic_load_explicit(&r->tail, memory_order_acquire);
    if (length > r->mask + 1 - (head - tail)) {
        return false;
    }
    size_t at = head & r->mask;
    size_t first = length < r->mask + 1 - at ? length : r->mask + 1 - at;
    memcpy(r->bytes + at, data, first);
    memcpy(r->bytes, (const unsigned char *)data + first, length - first);
    atomic_store_explicit(&r->head, head + length, memory_order_release);
    return true;
}

bool ring_get(struct ring *r, void *data, size_t length) {
    size_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    size_t head = atomic_load_explicit(&r->head, memory_order_acquire);
    if (length > head - tail) {
        return false;
    }
    size_t at = tail & r->mask;
    size_t first = length < r->mask + 1 - at ? length : r->mask + 1 - at;
    memcpy(data, r->bytes + at, first);
    memcpy((unsigned char *)data + first, r->bytes, length - first);
    atomic_store_explicit(&r->tail, tail + length, memory_order_release);
    return true;
}

int main(void) {
    struct ring r;
    if (ring_init(&r, 16) != 0) {
        perror("ring_init");
        return 1;
    }
    uint32_t next = 0, expected = 0, got;
    for (int round = 0; round < 1000; round++) {
        while (ring_put(&r, &next, sizeof next)) {
            next++;
        }
        while (ring_get(&r, &got, sizeof got)) {
            if (got != expected++) {
                fprintf(stderr, "expected %u, got %u\n", expected - 1, got);
                return 1;
            }
        }
    }
    printf("%u records went through %zu bytes\n", expected, r.mask + 1);
    ring_free(&r);
    return 0;
}
