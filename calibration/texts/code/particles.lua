-- A pool of particles that never allocates after it was made; dead ones are swapped to the end.
local Pool = {}
Pool.__index = Pool

function Pool.new(capacity)
  local self = setmetatable({ alive = 0, items = {} }, Pool)
  for i = 1, capacity do
    self.items[i] = { x = 0, y = 0, vx = 0, vy = 0, age = 0, life = 0 }
  end
  return self
end

function Pool:emit(x, y, count, speed)
  for _ = 1, math.min(count, #self.items - self.alive) do
    self.alive = self.alive + 1
    local p, angle = self.items[self.alive], math.random() * 2 * math.pi
    p.x, p.y, p.age, p.life = x, y, 0, 0.4 + math.random() * 0.6
    p.vx, p.vy = math.cos(angle) * speed, math.sin(angle) * speed
  end
end

function Pool:update(dt, gravity)
  local i = 1
  while i <= self.alive do
    local p = self.items[i]
    p.age = p.age + dt
    if p.age >= p.life then
      self.items[i], self.items[self.alive] = self.items[self.alive], p
      self.alive = self.alive - 1 -- look at the one that came in its place
    else
      p.vy = p.vy + gravity * dt
      p.x, p.y = p.x + p.vx * dt, p.y + p.vy * dt
      i = i + 1
    end
  end
end

return Pool
