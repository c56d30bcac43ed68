defmodule Courier.Mailbox do
  @moduledoc "Holds messages for a recipient who is offline, at most `:limit`, the oldest dropped first."
  use GenServer

  defstruct owner: nil, queue: :queue.new(), size: 0, limit: 100, dropped: 0

  def start_link(opts) do
    owner = Keyword.fetch!(opts, :owner)
    GenServer.start_link(__MODULE__, opts, name: {:via, Registry, {Courier.Registry, owner}})
  end

  def deliver(box, message), do: GenServer.cast(box, {:deliver, message})
  def drain(box), do: GenServer.call(box, :drain)

  @impl true
  def init(opts), do: {:ok, struct!(__MODULE__, opts)}

  @impl true
  def handle_cast({:deliver, message}, %{size: n, limit: n} = box) do
    {_oldest, queue} = :queue.out(:queue.in(message, box.queue))
    {:noreply, %{box | queue: queue, dropped: box.dropped + 1}}
  end

  def handle_cast({:deliver, message}, box) do
    {:noreply, %{box | queue: :queue.in(message, box.queue), size: box.size + 1}}
  end

  @impl true
  def handle_call(:drain, _from, box) do
    reply = %{messages: :queue.to_list(box.queue), dropped: box.dropped}
    {:reply, reply, %{box | queue: :queue.new(), size: 0, dropped: 0}, :hibernate}
  end
end
