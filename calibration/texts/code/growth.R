# Seedlings under three lamps: read, look, fit, report.
library(dplyr)
library(ggplot2)

seedlings <- read.csv("seedlings.csv", stringsAsFactors = TRUE) |>
  filter(!is.na(height_mm), day <= 21) |>
  mutate(lamp = relevel(lamp, ref = "white"))

summary_by_lamp <- seedlings |>
  group_by(lamp, day) |>
  summarise(n = n(), mean = mean(height_mm), se = sd(height_mm) / sqrt(n()), .groups = "drop")

ggplot(summary_by_lamp, aes(day, mean, colour = lamp)) +
  geom_line() +
  geom_pointrange(aes(ymin = mean - 1.96 * se, ymax = mean + 1.96 * se), size = 0.3) +
  scale_colour_manual(values = c(white = "grey40", red = "#D55E00", blue = "#0072B2")) +
  labs(x = "Days after sowing", y = "Height (mm)", title = "Blue light keeps seedlings short") +
  theme_minimal(base_size = 12)
ggsave("growth.pdf", width = 16, height = 10, units = "cm")

fit <- lme4::lmer(height_mm ~ day * lamp + (1 + day | tray), data = seedlings)
print(confint(fit, parm = "beta_", method = "Wald"), digits = 3)
