# frozen_string_literal: true

require "bigdecimal/util"
require "csv"
require "date"

# A shared flat's ledger: who paid what for whom, and the fewest payments that settle it.
class Ledger
  Entry = Struct.new(:on, :payer, :amount, :sharers, :note, keyword_init: true)

  def self.load(path)
    rows = CSV.foreach(path, headers: true, header_converters: :symbol).map do |row|
      Entry.new(on: Date.iso8601(row[:on]), payer: row[:payer].to_sym, amount: row[:amount].to_d,
                sharers: row[:sharers].split("+").map { _1.strip.to_sym }, note: row[:note])
    end
    new(rows)
  end

  def initialize(entries = []) = @entries = entries.sort_by(&:on)

  def balances
    @entries.each_with_object(Hash.new(0.to_d)) do |entry, sums|
      sums[entry.payer] += entry.amount
      share = entry.amount / entry.sharers.size
      entry.sharers.each { |who| sums[who] -= share }
    end
  end

  # The one who owes most pays the one who is owed most, until nobody owes a cent.
  def settlements
    open = balances.transform_values { |sum| sum.round(2) }.reject { |_, sum| sum.zero? }
    payments = []
    while open.size > 1
      (debtor, debt), (creditor, credit) = open.minmax_by { |_, sum| sum }
      amount = [-debt, credit].min
      break unless amount.positive?

      payments << [debtor, creditor, amount]
      open[debtor] += amount
      open[creditor] -= amount
      open.delete_if { |_, sum| sum.zero? }
    end
    payments
  end
end

if $PROGRAM_NAME == __FILE__
  Ledger.load(ARGV.fetch(0)).settlements.each do |from, to, amount|
    puts format("%-10s -> %-10s %8.2f", from, to, amount)
  end
end
