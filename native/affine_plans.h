/* How far the searches of the affine K-quants go, by effort. */
static const cut GRID[] = {
    {0, 0}, {-0.45f, -0.45f}, {0.45f, 0.45f}, {0, 0.9f}, {0.9f, 0}, {0.9f, 0.9f}, {-0.45f, 0.45f}, {0.45f, -0.45f},
    {0, 0.45f}, {0.45f, 0}, {0, 1.8f}, {1.8f, 0}, {1.8f, 1.8f}, {0.45f, 1.35f}, {1.35f, 0.45f}, {1.35f, 1.35f}};
static const step STEPS[] = {{0, 0}, {0, -1}, {0, 1}, {-1, 0}, {1, 0}, {-1, -1}, {1, 1}, {-1, 1}, {1, -1}, {-2, 0}, {2, 0}, {0, 2}};
static const float STARTS[][2] = {{0.95f, 1.0f}, {1.05f, 1.0f}, {1.0f, 0.95f}, {1.0f, 1.05f}};

static const plan Q4_K[3] = {{GRID, 8, 0, 0.95f, 0.02f, 6, STEPS, 4, 1, STARTS, 0, 0},
                             {GRID, 16, 2, 0.9f, 0.02f, 16, STEPS, 12, 3, STARTS, 2, 1},
                             {GRID, 16, 4, 0.9f, 0.01f, 40, STEPS, 12, 5, STARTS, 4, 2}};
static const plan Q5_K[3] = {{GRID, 8, 0, 0.95f, 0.02f, 6, STEPS, 4, 1, STARTS, 0, 0},
                             {GRID, 16, 2, 0.9f, 0.02f, 16, STEPS, 12, 3, STARTS, 2, 1},
                             {GRID, 16, 4, 0.9f, 0.01f, 40, STEPS, 12, 5, STARTS, 4, 2}};
static const plan Q2_K[3] = {{GRID, 8, 0, 0.95f, 0.02f, 6, STEPS, 4, 1, STARTS, 0, 0},
                             {GRID, 16, 2, 0.9f, 0.02f, 16, STEPS, 12, 3, STARTS, 2, 1},
                             {GRID, 16, 4, 0.9f, 0.01f, 40, STEPS, 12, 5, STARTS, 4, 2}};
