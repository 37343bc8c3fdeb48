// bench IN OUT ANSWERS OFFERED TAKEN [EXPECTED]: drives the engine; exits with 1 if an answer differs or none comes.
// IN: 64-bit entries: a word, bit 32 whether its packet ends there, bit 33 whether it is a register write instead
// (address in bits 40 ..). OUT: 32-bit words; behind each answer's last, its cycles. ANSWERS: how many to await.
// OFFERED, TAKEN: in 256ths, how often a word is offered and taken. EXPECTED: a file like OUT; cycles are compared only
// where the host always offers and takes.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>
#include "Vengine.h"
#include "verilated.h"

static const uint64_t longest_wait = 4000000;  // cycles without progress
static const long most_shown = 10;             // mismatches

static uint32_t state = 2463534242u;
static bool chance(unsigned of_256) {
  state ^= state << 13, state ^= state >> 17, state ^= state << 5;
  return (state >> 24) < of_256;
}

static FILE* opened(const char* path, const char* mode) {
  FILE* file = fopen(path, mode);
  if (!file) perror(path), exit(2);
  return file;
}

template <typename Word> static std::vector<Word> words_of(const char* path) {
  std::vector<Word> words;
  FILE* file = opened(path, "rb");
  for (Word word; fread(&word, sizeof word, 1, file) == 1;) words.push_back(word);
  fclose(file);
  return words;
}

static std::vector<uint32_t> expected;
static bool compares = false, compares_cycles = false;
static size_t place = 0;
static long mismatches = 0;

static void write(FILE* file, uint32_t word, bool is_cycles, long answer) {
  fwrite(&word, 4, 1, file);
  const bool is_missing = place >= expected.size();
  const bool matters = compares_cycles || !is_cycles;
  if (compares && (is_missing || (matters && expected[place] != word)) && mismatches++ < most_shown) {
    printf("answer %ld, %s %zu of the file: %u, expected ", answer, is_cycles ? "cycles, word" : "word", place, word);
    is_missing ? printf("none\n") : printf("%u\n", expected[place]);
  }
  place++;
}

int main(int count, char** given) {
  if (count != 6 && count != 7) {
    fprintf(stderr, "usage: %s IN OUT ANSWERS OFFERED TAKEN [EXPECTED]\n", given[0]);
    return 2;
  }
  const std::vector<uint64_t> in = words_of<uint64_t>(given[1]);
  if (count == 7) expected = words_of<uint32_t>(given[6]), compares = true;
  FILE* file = opened(given[2], "wb");
  const long answers = atol(given[3]);
  const unsigned offered = atoi(given[4]), taken = atoi(given[5]);
  compares_cycles = offered >= 256 && taken >= 256;
  auto* engine = new Vengine;
  auto edge = [&] { engine->clk = 1, engine->eval(), engine->clk = 0, engine->eval(); };
  engine->rst = 1;
  for (int i = 0; i < 4; i++) edge();
  engine->rst = 0;
  uint64_t cycles = 0, idle = 0;
  size_t next = 0;
  long found = 0;
  bool holding = false;
  for (; found < answers && idle < longest_wait; cycles++, idle++) {
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
      write(file, word, false, found), idle = 0;
      if (word >> 32) write(file, engine->bus___05Fdat_r, true, found), found++;
    }
  }
  fclose(file);
  printf("%llu\n", (unsigned long long)cycles);
  if (found < answers) printf("%ld of %ld answers after %llu cycles without progress\n", found, answers,
                              (unsigned long long)longest_wait);
  if (compares) printf("%ld of %zu words differ\n", mismatches, expected.size());
  return found < answers || mismatches || (compares && place != expected.size());
}
