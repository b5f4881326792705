/* The switch of a worker's role by a controller, under controller crash, a second (zombie) controller and delayed,
 * repeated and overtaken commands. Three workers: P, P, D.
 *
 * I7: at every moment each role has a worker that takes work. Further: no request in flight is lost by a switch.
 * What the code does: tandem.controller.moves and tandem.controller.live on one side, tandem.core.role_commands and
 * tandem.worker_host.role_desk on the other. A command is one call of WorkerService.SetRole.
 *   NO_FENCE    workers obey a controller of any term
 *   NO_CLAIM    a new controller reads the workers' state without raising their term first
 *   STALE_VIEW  a new controller takes its view from the store instead of from the workers
 *   NO_SEQ      workers do not drop repeated and overtaken commands of one term
 *   NO_DRAINCHK a worker switches although it is not drained. No error: the controller has asked it before, and the
 *               other guards keep that answer true. It stays in the design as a defence
 *   REACH       a completed switch is reached
 */
#define N 3
#define P 0
#define D 1
mtype = { DRAIN, FLIP, UNDRAIN };
chan cmd = [3] of { mtype, byte, byte, byte, byte };   /* type worker term role seq */
byte role[N]; bit drain[N]; byte term[N]; byte lastq[N]; bit busy[N];
byte store_role[N]; byte lost = 0; byte dup = 1;

inline check() {
  byte k, cp, cd; k=0; cp=0; cd=0;
  do :: k < N -> if :: !drain[k] && role[k]==P -> cp++ :: !drain[k] && role[k]==D -> cd++ :: else fi; k++ :: else -> break od;
  assert(cp >= 1 && cd >= 1); assert(lost == 0); k=0;cp=0;cd=0
}

proctype Controller(byte my) {
  byte v_role[N]; bit v_dr[N]; byte seq=0, w=0, n=0, i=0, flips=0, tgt=0;
  /* take over */
  i = 0;
  do :: i < N ->
       atomic {
#ifndef NO_CLAIM
         if :: term[i] > my -> goto gone :: term[i] < my -> term[i] = my; lastq[i] = 0 :: else fi;
#endif
#ifdef STALE_VIEW
         v_role[i] = store_role[i]; v_dr[i] = 0;
#else
         v_role[i] = role[i]; v_dr[i] = drain[i];
#endif
         i++ }
     :: else -> break od;
  i = 0;
  /* finish or undo what was in the middle */
  do :: i < N -> if :: v_dr[i] -> seq++; cmd ! UNDRAIN, i, my, 0, seq; v_dr[i]=1 /* not counted until seen */ :: else fi; i++ :: else -> break od;
  i=0;
  do
  :: flips < 2 ->
     atomic { select (w : 0 .. N-1); n=0; i=0;
       do :: i < N -> if :: v_role[i]==v_role[w] && !v_dr[i] -> n++ :: else fi; i++ :: else -> break od; i=0 }
     if
     :: n >= 2 && !v_dr[w] ->
        v_dr[w] = 1; seq++; cmd ! DRAIN, w, my, 0, seq;
        tgt = 1 - v_role[w];
        if
        :: drain[w] && !busy[w] ->                       /* asked the worker, it says drained */
           seq++; cmd ! FLIP, w, my, tgt, seq;
           if :: role[w]==tgt && !drain[w] -> v_role[w]=tgt; v_dr[w]=0; store_role[w]=tgt
              :: goto gone fi                              /* give up or crash */
        :: goto gone
        fi;
        flips++
     :: else -> flips++
     fi; n=0;w=0
  :: goto gone                                            /* crash at any point */
  :: flips >= 2 -> break
  od;
gone: skip
}

active proctype Workers() {
  mtype t; byte w, tm, r, q;
end: do
  :: atomic { len(cmd) > 1 -> cmd ? t, w, tm, r, q; cmd ! t, w, tm, r, q; t=DRAIN; w=0; tm=0; r=0; q=0 }   /* reorder */
  :: atomic { cmd ? t, w, tm, r, q ->
       if :: dup > 0 -> dup--; cmd ! t, w, tm, r, q :: true fi;
       if
#ifndef NO_FENCE
       :: tm < term[w] -> skip
#endif
#ifndef NO_SEQ
       :: tm == term[w] && q <= lastq[w] -> skip
#endif
       :: else ->
          if :: term[w] < tm -> term[w] = tm :: else fi; lastq[w] = q;
          if :: t == DRAIN -> drain[w] = 1
             :: t == UNDRAIN -> drain[w] = 0
             :: t == FLIP ->
#ifdef NO_DRAINCHK
                if :: busy[w] -> lost++ :: else fi; busy[w]=0; role[w] = r; drain[w] = 0
#else
                if :: drain[w] && !busy[w] -> role[w] = r; drain[w] = 0;
#ifdef REACH
                      assert(false)
#else
                      skip
#endif
                   :: else fi
#endif
          fi
       fi;
       check(); t=DRAIN; w=0; tm=0; r=0; q=0 }
  :: atomic { select (w : 0 .. N-1); if :: !drain[w] && !busy[w] -> busy[w]=1 :: busy[w] -> busy[w]=0 :: else fi; w=0 }
  od
}
init { atomic { role[0]=P; role[1]=P; role[2]=D; store_role[0]=P; store_role[1]=P; store_role[2]=D;
  run Controller(1); run Controller(2) } }
