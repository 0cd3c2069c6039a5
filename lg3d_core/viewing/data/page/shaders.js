const VERTEX = `#version 300 es
layout(location=0) in vec3 aPosition; layout(location=1) in vec3 aNormal; layout(location=2) in vec4 aColor; layout(location=3) in vec3 aOutward;
uniform vec3 uLow, uSize, uEye, uRight; uniform mat4 uMatrix;
uniform float uPoint, uCut, uShade;
out vec3 vColor; flat out vec3 fColor; flat out float fCut, fLit; flat out uint fId; out float vShade;
void main() {
  vec3 p = uLow + uSize * aPosition, n = aNormal, toEye = uEye - p;
  fCut = uCut * (dot(aOutward, toEye) > 0.0 ? 1.0 : 0.0);
  if (dot(n, toEye) < 0.0) n = -n;
  float has = step(0.25, dot(n, n));
  n = has > 0.0 ? normalize(n) : vec3(0.0);
  vec3 light = normalize(normalize(toEye) - 0.45 * uRight);
  float shade = 0.68 + 0.28 * max(dot(n, light), 0.0) + 0.08 * max(n.z, 0.0);
  vShade = mix(1.0, min(shade, 1.02), uShade * has);
  vColor = fColor = aColor.rgb; fLit = aColor.a; fId = uint(gl_VertexID);
  gl_Position = uMatrix * vec4(p, 1.0);
  gl_PointSize = clamp(uPoint / gl_Position.w, 1.5, 40.0);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec3 vColor; flat in vec3 fColor; flat in float fCut, fLit; flat in uint fId; in float vShade;
uniform float uSmooth, uRound, uFade; uniform int uPass, uPick;
out vec4 color;
void main() {
  if (fCut > 0.5 || (uPass == 1 && fLit > 0.5) || (uPass == 2 && fLit < 0.5)) discard;
  if (uRound > 0.5 && length(gl_PointCoord - 0.5) > 0.5) discard;
  if (uPick == 1) { uint k = fId + 1u; color = vec4(uvec4(k, k >> 8, k >> 16, k >> 24) & 255u) / 255.0; return; }
  vec3 c = mix(fColor, vColor, uSmooth) * vShade;
  color = vec4(uPass == 1 ? mix(vec3(1.0), vec3(dot(c, vec3(0.33))), uFade) : c, 1.0);
}`;
// Pixels next to nearer surfaces are darkened (eye-dome lighting); then pixels are averaged.
const FINISH_VERTEX = `#version 300 es
void main() { gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0.0, 1.0); }`;
const FINISH_FRAGMENT = `#version 300 es
precision highp float;
uniform sampler2D uColor, uDepth; uniform int uFine; uniform vec2 uPlanes; uniform float uEdges;
out vec4 color;
float logDistance(ivec2 place) {
  float depth = texelFetch(uDepth, clamp(place, ivec2(0), textureSize(uDepth, 0) - 1), 0).r;
  return log2(2.0 * uPlanes.x * uPlanes.y / (uPlanes.x + uPlanes.y - (2.0 * depth - 1.0) * (uPlanes.y - uPlanes.x)));
}
void main() {
  vec3 sum = vec3(0.0);
  for (int k = 0; k < uFine * uFine; k++) {
    ivec2 here = ivec2(gl_FragCoord.xy) * uFine + ivec2(k % uFine, k / uFine);
    vec3 c = texelFetch(uColor, here, 0).rgb;
    if (uEdges > 0.0 && texelFetch(uDepth, here, 0).r < 1.0) {
      float own = logDistance(here), nearer = 0.0;
      for (int ring = 1; ring <= 2; ring++) for (int y = -1; y <= 1; y++) for (int x = -1; x <= 1; x++)
        nearer += clamp(own - logDistance(here + ivec2(x, y) * ring * uFine), 0.0, 0.25);
      c *= max(exp(-uEdges * nearer), 0.45);
    }
    sum += c;
  }
  color = vec4(sum / float(uFine * uFine), 1.0);
}`;
