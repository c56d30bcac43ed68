package org.example.transit;

import java.time.Duration;
import java.time.LocalTime;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.PriorityQueue;

/** Earliest arrival over a day's connections: each is a ride between two neighbouring stops at fixed times. */
public final class Timetable {

    public record Connection(String line, String from, String to, LocalTime departs, LocalTime arrives) {
        public Connection {
            if (arrives.isBefore(departs)) {
                throw new IllegalArgumentException(line + " arrives in " + to + " before it leaves " + from);
            }
        }
    }

    private final Map<String, List<Connection>> byStop = new HashMap<>();
    private final Duration change;

    public Timetable(List<Connection> connections, Duration change) {
        this.change = change;
        for (Connection connection : connections) {
            byStop.computeIfAbsent(connection.from(), stop -> new ArrayList<>()).add(connection);
        }
        byStop.values().forEach(list -> list.sort((a, b) -> a.departs().compareTo(b.departs())));
    }

    /** The rides that bring a passenger there first, or nothing if no ride does today. */
    public Optional<List<Connection>> route(String from, String to, LocalTime start) {
        Map<String, LocalTime> earliest = new HashMap<>();
        Map<String, Connection> reachedBy = new HashMap<>();
        PriorityQueue<String> queue = new PriorityQueue<>((a, b) -> earliest.get(a).compareTo(earliest.get(b)));
        earliest.put(from, start);
        queue.add(from);
        while (!queue.isEmpty()) {
            String stop = queue.poll();
            if (stop.equals(to)) {
                return Optional.of(backtrack(from, to, reachedBy));
            }
            Connection in = reachedBy.get(stop);
            for (Connection out : byStop.getOrDefault(stop, Collections.emptyList())) {
                LocalTime ready = earliest.get(stop);
                if (in != null && !in.line().equals(out.line())) {
                    ready = ready.plus(change);
                }
                LocalTime known = earliest.get(out.to());
                if (out.departs().isBefore(ready) || (known != null && !out.arrives().isBefore(known))) {
                    continue;
                }
                queue.remove(out.to());
                earliest.put(out.to(), out.arrives());
                reachedBy.put(out.to(), out);
                queue.add(out.to());
            }
        }
        return Optional.empty();
    }

    private static List<Connection> backtrack(String from, String to, Map<String, Connection> reachedBy) {
        ArrayDeque<Connection> rides = new ArrayDeque<>();
        for (String stop = to; !stop.equals(from); stop = rides.peekFirst().from()) {
            rides.addFirst(reachedBy.get(stop));
        }
        return List.copyOf(rides);
    }
}
