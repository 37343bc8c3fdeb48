// harness IN OUT: drives the engine. IN: 64-bit entries: a word, bit 32 whether its packet ends there, bit 33 whether it
// is a register write instead (address in bits 40 ..). OUT: 32-bit words; behind each answer's last, its cycles.
// Arguments 3, 4, 5: number of answers, and in 256ths how often a word is offered and taken.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>
#include "Vengine.h"
#include "verilated.h"

static uint32_t state = 2463534242u;
static bool chance(unsigned of_256) {
  state ^= state << 13, state ^= state >> 17, state ^= state << 5;
  return (state >> 24) < of_256;
}

int main(int count, char** given) {
  if (count != 6) return 2;
  std::vector<uint64_t> in;
  FILE* file = fopen(given[1], "rb");
  for (uint64_t entry; fread(&entry, 8, 1, file) == 1;) in.push_back(entry);
  fclose(file);
  file = fopen(given[2], "wb");
  const long answers = atol(given[3]);
  const unsigned offered = atoi(given[4]), taken = atoi(given[5]);
  auto* engine = new Vengine;
  auto edge = [&] { engine->clk = 1, engine->eval(), engine->clk = 0, engine->eval(); };
  engine->rst = 1;
  for (int i = 0; i < 4; i++) edge();
  engine->rst = 0;
  uint64_t cycles = 0, idle = 0;
  size_t next = 0;
  bool holding = false;
  for (long found = 0; found < answers && idle < 4000000; cycles++, idle++) {
    const bool writes = next < in.size() && (in[next] >> 33 & 1);
    const bool offers = next < in.size() && !writes && (holding || chance(offered));
    const bool takes = chance(taken);
    engine->bus___05Fcyc = engine->bus___05Fstb = engine->bus___05Fwe = writes;
    engine->bus___05Fadr = writes ? in[next] >> 40 : 6;  // else CYCLES is read all the time
    engine->bus___05Fdat_w = writes ? uint32_t(in[next]) : 0;
    engine->words___05Fvalid = offers;
    engine->words___05Fpayload = offers ? in[next] & 0x1ffffffffull : 0;
    engine->answers___05Fready = takes;
    engine->eval();
    const bool went = offers && engine->words___05Fready, wrote = writes && engine->bus___05Fack;
    const bool came = takes && engine->answers___05Fvalid;
    const uint64_t word = engine->answers___05Fpayload;
    edge();
    holding = offers && !went;
    if (went || wrote) next++, idle = 0;
    if (came) {
      const uint32_t low = word;
      fwrite(&low, 4, 1, file), idle = 0;
      if (word >> 32) {
        const uint32_t latency = engine->bus___05Fdat_r;
        fwrite(&latency, 4, 1, file), found++;
      }
    }
  }
  fclose(file);
  printf("%llu\n", (unsigned long long)cycles);
  return idle >= 4000000;
}
