package app.habits

import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.map
import kotlinx.coroutines.flow.update
import java.time.DayOfWeek
import java.time.LocalDate

sealed interface Schedule {
    data object Daily : Schedule
    data class OnDays(val days: Set<DayOfWeek>) : Schedule
    data class EveryNth(val n: Int, val from: LocalDate) : Schedule {
        init { require(n > 0) { "n must be positive, was $n" } }
    }
}

fun Schedule.isDue(date: LocalDate): Boolean = when (this) {
    Schedule.Daily -> true
    is Schedule.OnDays -> date.dayOfWeek in days
    is Schedule.EveryNth -> !date.isBefore(from) && (date.toEpochDay() - from.toEpochDay()) % n == 0L
}

data class Habit(val id: Long, val title: String, val schedule: Schedule, val done: Set<LocalDate> = emptySet())

/** Due days in a row that were kept, counted back from [today]; a day that isn't over yet doesn't break the streak. */
fun Habit.streak(today: LocalDate): Int {
    val earliest = done.minOrNull() ?: return 0
    return generateSequence(today) { it.minusDays(1) }
        .takeWhile { !it.isBefore(earliest) }
        .filter { schedule.isDue(it) }
        .dropWhile { it == today && it !in done }
        .takeWhile { it in done }
        .count()
}

class HabitStore {
    private val state = MutableStateFlow<Map<Long, Habit>>(emptyMap())

    fun dueOn(date: LocalDate): Flow<List<Habit>> =
        state.map { all -> all.values.filter { it.schedule.isDue(date) }.sortedBy(Habit::title) }

    fun toggle(id: Long, date: LocalDate) = state.update { all ->
        val habit = all[id] ?: return@update all
        all + (id to habit.copy(done = if (date in habit.done) habit.done - date else habit.done + date))
    }
}
