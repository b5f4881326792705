/* A hand-over that leaves out what D has cached: who may still read a block, and whether P and D mean the same one.

   Every KV has two blocks: the first is shared by all requests of one word, the second is a request's own. D keeps
   first blocks in a cache, borrows what it leaves out of the grant, gives up idle cached blocks at any moment, may die,
   and its index may be broken (BAD_INDEX: it finds another word's block). P may be broken (FROM_ZERO: it sends the first
   blocks in place of the granted ones). The rest of the hand-over (generations, late chunks, pins) is kv.pml's: here a
   chunk of a hand-over that is over is simply dropped.

   Guards, each taken out by a flag:
     NO_BORROW   D counts itself among the readers of what it leaves out
     NO_RETURN   … and no more when the attempt is over, however it ended
     NO_CLAIM    P compares the claim in the grant (the name of the block that D's cache gave) with its own
     ASKED_CLAIM D makes the claim from what the cache gave, not from what it asked for
     NO_RANGE    the seal covers first_ordinal, so a hand-over of other blocks does not verify
   Code: tandem.kvtransfer.skipped, HandoverSender._on_grant, SealedRange, DecodeRole._reserve, Engine.reserve_delta,
   BlockTable.borrow, release_all, evict.
*/

#ifndef NR
#define NR 3
#endif
#ifndef NCRASH
#define NCRASH 1
#endif
#ifndef NCANCEL
#define NCANCEL 1
#endif
#define NB 4                              /* blocks of D */
#define WORD(x) ((x) % 2)
#define FIRST(w) (1 + (w))                /* contents */
#define TAIL(x) (10 + (x))
#define NONE 15

#define FREE 0
#define RECEIVING 1
#define COMMITTED 2
#define CACHED 3
byte state[NB], data[NB], name[NB];       /* name: the word of a cached block */
byte owner[NB];                           /* of what is not cached */
byte readers[NB];                         /* bit x: request x borrows it */

#define NOTHING 0
#define GRANTED 1                         /* the grant is on its way to P */
#define SENDING 2                         /* P has it; chunks are on their way */
#define DECODING 3
#define OVER 4
byte stage[NR];
byte head[NR], tail[NR];                  /* D's blocks of the KV */
bool skips[NR];                           /* the head is borrowed: only the tail is granted */
byte claim[NR];
byte landed[NR];                          /* bit 0: head, bit 1: tail */
bool odd_range[NR];                       /* what the seal covers is not what was granted */
byte crashes = NCRASH, cancels = NCANCEL;
byte k, found;

inline clear(b) { state[b] = FREE; data[b] = 0; owner[b] = NONE; readers[b] = 0; name[b] = NONE }

inline take(b, x) {                       /* BlockTable.allocate */
  b = NONE; k = 0;
  do :: k < NB && b == NONE && state[k] == FREE -> b = k; state[k] = RECEIVING; owner[k] = x; data[k] = 0; k++
     :: k < NB && !(b == NONE && state[k] == FREE) -> k++
     :: k == NB -> break od;
  k = 0
}

inline end_at_d(x) {                      /* BlockTable.release_all */
  k = 0;
  do :: k < NB ->
#ifndef NO_RETURN
        if :: state[k] == CACHED -> readers[k] = readers[k] & ~(1 << x) :: else fi;
#endif
        if :: (state[k] == RECEIVING || state[k] == COMMITTED) && owner[k] == x -> clear(k) :: else fi;
        k++
     :: else -> break od;
  k = 0; head[x] = NONE; tail[x] = NONE; skips[x] = 0; claim[x] = NONE; landed[x] = 0; odd_range[x] = 0
}

inline own_kv(x) { assert(data[head[x]] == FIRST(WORD(x)) && data[tail[x]] == TAIL(x)) }

proctype Request(byte x) {
end: do
  :: d_step { stage[x] == NOTHING ->      /* DecodeRole._reserve: look up, borrow, allocate, grant */
      found = NONE; k = 0;
      do :: k < NB && state[k] == CACHED && name[k] == WORD(x) -> found = k; k++
         :: k < NB && !(state[k] == CACHED && name[k] == WORD(x)) ->
#ifdef BAD_INDEX
            if :: state[k] == CACHED && found == NONE -> found = k :: else fi;
#endif
            k++
         :: k == NB -> break od;
      k = 0;
      if
      :: found != NONE ->
        skips[x] = 1; head[x] = found; claim[x] = name[found];
#ifdef ASKED_CLAIM
        claim[x] = WORD(x);
#endif
#ifndef NO_BORROW
        readers[found] = readers[found] | (1 << x)
#else
        skip
#endif
      :: else -> take(head[x], x)
      fi;
      found = NONE;
      take(tail[x], x);
      if :: head[x] == NONE || tail[x] == NONE -> end_at_d(x); stage[x] = OVER      /* NO_KV_BLOCKS */
         :: else -> stage[x] = GRANTED fi }
  :: d_step { stage[x] == GRANTED ->      /* HandoverSender._on_grant */
      if
#ifndef NO_CLAIM
      :: skips[x] && claim[x] != WORD(x) -> end_at_d(x); stage[x] = OVER            /* KV_PREFIX_MISMATCH */
#endif
      :: else -> stage[x] = SENDING
      fi }
  :: d_step { stage[x] == SENDING && !skips[x] && !(landed[x] & 1) ->
      data[head[x]] = FIRST(WORD(x)); landed[x] = landed[x] | 1 }
  :: d_step { stage[x] == SENDING && !(landed[x] & 2) -> data[tail[x]] = TAIL(x); landed[x] = landed[x] | 2 }
#ifdef FROM_ZERO
  :: d_step { stage[x] == SENDING && skips[x] && !(landed[x] & 2) ->                /* the first block for the second */
      data[tail[x]] = FIRST(WORD(x)); landed[x] = landed[x] | 2; odd_range[x] = 1 }
#endif
  :: d_step { stage[x] == SENDING && (landed[x] & 2) && (skips[x] || (landed[x] & 1)) ->   /* the seal: _verify */
      if
#ifndef NO_RANGE
      :: odd_range[x] -> end_at_d(x); stage[x] = OVER                               /* KV_INTEGRITY */
#endif
      :: else ->                          /* commit_handover: adopted, and what came whole enters the cache */
        own_kv(x);
#ifdef REACH_DELTA
        assert(!skips[x]);
#endif
        state[tail[x]] = COMMITTED; stage[x] = DECODING;
        if :: !skips[x] ->
              found = 0; k = 0;
              do :: k < NB -> if :: state[k] == CACHED && name[k] == WORD(x) -> found = 1 :: else fi; k++
                 :: else -> break od;
              k = 0;
              if :: found -> state[head[x]] = COMMITTED
                 :: else -> state[head[x]] = CACHED; name[head[x]] = WORD(x); owner[head[x]] = NONE;
                            readers[head[x]] = 1 << x fi;
              found = NONE
           :: else fi
      fi }
  :: d_step { stage[x] == DECODING -> own_kv(x); end_at_d(x); stage[x] = OVER }     /* the last step */
  :: d_step { stage[x] == DECODING && cancels > 0 -> own_kv(x); cancels-- ; end_at_d(x); stage[x] = OVER }
  :: d_step { (stage[x] == GRANTED || stage[x] == SENDING) && cancels > 0 ->        /* abort, time-out, death of P */
      cancels--; end_at_d(x); stage[x] = NOTHING }                                  /* … and the next attempt */
  od
}

proctype Cache() {
  byte b;
end: do
  :: d_step { b < NB && state[b] == CACHED && readers[b] == 0 -> clear(b) }         /* an idle block is given up */
  :: d_step { b < NB - 1 -> b++ }
  :: d_step { b > 0 -> b = 0 }
  od
}

proctype Crash() {
  byte x, b;
end: do
  :: d_step { crashes > 0 ->              /* D: an empty table; whoever was there begins anew */
      crashes--; b = 0;
      do :: b < NB -> clear(b); b++ :: else -> break od;
      b = 0; x = 0;
      do :: x < NR -> if :: stage[x] != OVER -> end_at_d(x); stage[x] = NOTHING :: else fi; x++ :: else -> break od;
      x = 0 }
  od
}

#define ALL_OVER (stage[0] == OVER && stage[1] == OVER && stage[NR - 1] == OVER)

proctype AtRest() {                       /* I6: nobody reads and nobody owns when every request is over */
  d_step { ALL_OVER -> k = 0;
    do :: k < NB -> assert(readers[k] == 0 && (state[k] == FREE || state[k] == CACHED)); k++ :: else -> break od; k = 0 }
}

init {
  byte i;
  atomic {
    do :: i < NB -> clear(i); i++ :: else -> break od;
    i = 0;
    do :: i < NR -> stage[i] = NOTHING; head[i] = NONE; tail[i] = NONE; claim[i] = NONE; run Request(i); i++
       :: else -> break od;
    run Cache(); run Crash(); run AtRest()
  }
}
