"""Mixed work for an hour or so, with children replaced all the time: does everything stay flat?"""
