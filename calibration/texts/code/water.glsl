#version 330 core
// Fragment shader for a pond: two sliding normal maps, Fresnel, and a tint that deepens with the water.
in vec3 world_position;
in vec2 uv;
out vec4 colour;

uniform sampler2D normals, reflection, bed;
uniform vec3 eye;
uniform float time;
uniform vec2 viewport;

const vec3 kDeep = vec3(0.02, 0.11, 0.13);

vec3 ripple(vec2 drift, float scale) {
    return texture(normals, uv * scale + drift * time).xyz * 2.0 - 1.0;
}

void main() {
    vec3 n = normalize(ripple(vec2(0.013, 0.007), 4.0) + ripple(vec2(-0.009, 0.011), 7.5));
    vec3 view = normalize(eye - world_position);
    float facing = clamp(dot(view, n.xzy), 0.0, 1.0);
    float fresnel = 0.02 + 0.98 * pow(1.0 - facing, 5.0);   // water: F0 is about 0.02

    vec2 screen = gl_FragCoord.xy / viewport;
    vec3 mirrored = texture(reflection, vec2(screen.x, 1.0 - screen.y) + n.xy * 0.03).rgb;
    vec4 ground = texture(bed, screen + n.xy * 0.015);      // alpha holds the depth in metres
    vec3 seen = mix(kDeep, ground.rgb, exp(-1.4 * ground.a));
    colour = vec4(mix(seen, mirrored, fresnel), 1.0);
}
